"""Runs of a comparison trained together against one after the other, as whole ``fedopt compare`` commands.

    python benchmarks/batched_runs.py [--repeats 3] [--seeds 8] [--steps 100] [--cases logistic mlp w2] [--out DIR]

Every repeat makes each comparison anew with 1 and 2 processes, batched and not, in a rotating order. Writes a dated
JSON and Markdown table with wall and CPU seconds (of the command and its workers, report included) and their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from run import _cpu_name

HERE = Path(__file__).resolve().parent
DIGITS = {"kind": "digits", "clients": 100, "partition": {"kind": "dirichlet", "alpha": 0.5}}
CASES: dict[str, dict[str, Any]] = {
    "logistic": {
        "data": DIGITS,
        "model": {"kind": "logistic_regression"},
        "client": {"kind": "sgd", "lr": 0.1, "batch_size": 10, "epochs": 1},
    },
    "mlp": {
        "data": DIGITS,
        "model": {"kind": "mlp", "hidden": [64]},
        "client": {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "batch_size": 10, "epochs": 5},
    },
    "w2": {
        "data": {**DIGITS, "kind": "fashion_mnist", "clients": 1000},
        "model": {"kind": "mlp", "hidden": [200]},
        "client": {"kind": "sgd", "lr": 0.1, "batch_size": 10, "epochs": 1},
    },
}
MODES = [(processes, batch) for processes in (1, 2) for batch in ("never", "always", "auto")]


def measured(description: Path, processes: int, batch: str) -> dict[str, float]:
    """Wall and CPU seconds of one command in a new folder."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fedopt", "compare", str(description), "--out", folder]
        command += ["--processes", str(processes), "--batch-runs", batch]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, env=env, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.perf_counter() - began, "cpu_s": cpu}


def description(case: str, seeds: int, steps: int, folder: Path) -> Path:
    """A comparison of two learning rates with the given seeds."""
    base = {
        **CASES[case],
        "sampling": {"kind": "fixed", "cohort_size": 10},
        "aggregator": {"kind": "fedavg"},
        "run": {"server_steps": steps, "evaluate_every": 20, "checkpoint_every": 100000, "evaluate_clients": "none"},
    }
    path = folder / f"{case}.yaml"
    variants = {"slow": {"client.lr": 0.05}, "fast": {}}
    path.write_text(json.dumps({"name": case, "base": base, "variants": variants, "seeds": list(range(seeds))}))
    return path


def table(results: dict[str, Any]) -> str:
    """Markdown of the medians, with least and largest value, and the gain over runs one after the other."""
    lines = [
        "| case | processes | batch_runs | wall s | CPU s | wall gain | CPU gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, modes in results["cases"].items():
        for name, samples in modes.items():
            processes, batch = name.split()
            alone = modes[f"{processes} never"]
            cells = []
            for key in ("wall_s", "cpu_s"):
                values = [each[key] for each in samples]
                cells.append(f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})")
            gains = [
                statistics.median(a[key] / b[key] for a, b in zip(alone, samples, strict=True))
                for key in ("wall_s", "cpu_s")
            ]
            lines.append(f"| {case} | {processes} | {batch} | {' | '.join(cells)} | {gains[0]:.2f} | {gains[1]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    results: dict[str, Any] = {
        "date": datetime.now().isoformat(timespec="minutes"),
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count()},
    }
    results |= {"load_before": os.getloadavg(), "seeds": given.seeds, "steps": given.steps, "cases": {}}
    cases = {case: {f"{p} {b}": [] for p, b in MODES} for case in given.cases}
    results["cases"] = cases
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(given.repeats):
            for case in given.cases:
                path = description(case, given.seeds, given.steps, Path(folder))
                for turn in range(len(MODES)):
                    processes, batch = MODES[(turn + repeat) % len(MODES)]
                    found = measured(path, processes, batch)
                    cases[case][f"{processes} {batch}"].append(found)
                    print(f"repeat {repeat + 1} {case}, {processes} processes, {batch}: {found}", flush=True)
    results["load_after"] = os.getloadavg()
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"batched-runs-{datetime.now():%Y-%m-%d-%H%M}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    command = f"python benchmarks/batched_runs.py --repeats {given.repeats} --seeds {given.seeds} --steps {given.steps}"
    before, after = results["load_before"][0], results["load_after"][0]
    head = (
        f"# Runs of a comparison trained together, {results['date']}\n\n"
        f"`{command}`: two learning rates with {given.seeds} seeds each, {given.steps} steps, cohort 10, one thread a\n"
        "process. Medians (least to largest) of whole commands, start and report included; gains are medians of\n"
        f"paired ratios against `never`. {results['machine']['cpu']}, {results['machine']['cores']} cores;\n"
        f"load {before:.1f} before, {after:.1f} after.\n\n"
    )
    stem.with_suffix(".md").write_text(head + table(results))
    print(head + table(results))


if __name__ == "__main__":
    main()
