"""Every scenario that ships is valid, and those on embedded data run."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedopt

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p for p in (ROOT / "scenarios").rglob("*.yaml") if "comparisons" not in p.parts)


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_scenarios_are_valid(path: Path) -> None:
    assert fedopt.load(path).run.server_steps or fedopt.load(path).run.time_s


# Calibrating and randomising takes minutes in all: those run with `make test-all`.
RUN = [pytest.param(p, marks=pytest.mark.slow if "privacy" in p.parts else ()) for p in FILES]


@pytest.mark.parametrize("path", RUN, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_scenarios_run_a_few_steps(path: Path, tmp_path: Path) -> None:
    scenario = fedopt.load(path, {"run.evaluate_every": 1, "run.evaluate_clients": "none"})
    try:
        data = scenario.data.load(scenario.seed)
    except FileNotFoundError as error:
        pytest.skip(f"data not on this machine: {error}")
    short = fedopt.load(path, {"run.server_steps": 2, "run.evaluate_clients": "none"})
    run = fedopt.simulate(short, out=tmp_path, data=data)
    assert run.summary["steps"] == 2 and run.report.exists()
