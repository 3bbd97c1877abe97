# `make demo` and `make test` set up everything they need in .venv; both may be run again at any time.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
EXTRAS ?= test
# Installed once per change of these files.
STAMP := .venv/.installed-$(EXTRAS)
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all check format setup clean bench bench-peers bench-scale bench-gpu bench-kernels bench-processes bench-zeroth-order bench-flower-app

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "fedopt needs Python 3.11 or newer with venv"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(STAMP)
	$(BIN)/fedopt simulate scenarios/quickstart.yaml

check: $(STAMP)
	$(BIN)/ruff format --check fedopt tests benchmarks conftest.py
	$(BIN)/ruff check fedopt tests benchmarks conftest.py
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu" --durations=25

test-all: check
	$(BIN)/python -m pytest -n $(WORKERS) -m "not gpu"

# Tables of speeds, written to benchmarks/results/. Run them on a machine that does nothing else.
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

# Flower's own simulation against the virtual grid; needs benchmarks/peers.py flower.
bench-flower-app: $(STAMP)
	$(BIN)/python benchmarks/flower_app.py

# An FZooS round against the authors' way, an SPSA step against its forward passes.
bench-zeroth-order: $(STAMP)
	$(BIN)/python benchmarks/zeroth_order.py

# On a machine with a CUDA device: the CIFAR-10 workload of pfl-research, and W1 to W5 in cohorts of 50 to 5,000.
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

# Single kernels, with pytest-benchmark.
bench-kernels: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pytest-benchmark
	$(BIN)/python -m pytest benchmarks/kernels.py --benchmark-sort=name --benchmark-columns=median,iqr,min,rounds

# What a second process brings (torchrun), on a CPU.
bench-processes: $(STAMP)
	$(BIN)/python benchmarks/processes.py

# How cost grows with population, cohort and model: table, exponents and figure.
bench-scale: $(STAMP)
	$(BIN)/python benchmarks/scale.py

bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py --borrow
	$(BIN)/python benchmarks/run.py --peers

format: $(STAMP)
	$(BIN)/ruff format fedopt tests benchmarks
	$(BIN)/ruff check --fix fedopt tests benchmarks

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
