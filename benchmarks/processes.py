"""What a second process brings on a CPU: ``python benchmarks/processes.py`` (``make bench-processes``).

W1 (CNN) and W2 (MLP) on Fashion-MNIST, 1,000 clients, 50 a round, one epoch of batches of 10, one thread a process:
``torchrun --nproc-per-node N -m fedopt simulate`` for N = 1 (without torchrun) and 2, in turn. A sample is the time of
one round; the efficiency is t_1 / (2 t_2). The models of 1 and 2 processes are compared, and those of repeated runs.
Results: ``benchmarks/results/processes-<date>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from run import _cpu_name

HERE = Path(__file__).resolve().parent
MODELS = {"W1": {"kind": "fedavg_cnn"}, "W2": {"kind": "mlp", "hidden": [200]}}
ROUNDS = {"W1": 4, "W2": 20}


def scenario(workload: str, rounds: int) -> dict[str, Any]:
    """One workload as a mapping."""
    return {
        "name": workload,
        "data": {"kind": "fashion_mnist", "clients": 1000, "partition": {"kind": "dirichlet", "alpha": 0.5}},
        "model": MODELS[workload],
        "client": {"kind": "sgd", "lr": 0.05, "batch_size": 10, "epochs": 1},
        "sampling": {"kind": "fixed", "cohort_size": 50},
        "aggregator": {"kind": "fedavg"},
        "run": {
            "server_steps": rounds,
            "evaluate_every": rounds,
            "checkpoint_every": rounds,
            "evaluate_clients": "none",
        },
        "engine": {"device": "cpu", "threads": 1},
    }


def run(workload: str, processes: int, rounds: int) -> tuple[list[float], np.ndarray, str]:
    """Seconds of the rounds (without the first, and the last, which evaluates), the model, and its hash."""
    import fedopt
    from fedopt.scenario import from_mapping
    from fedopt.yaml_writer import to_yaml

    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "scenario.yaml", Path(folder) / "runs"
        path.write_text(to_yaml(from_mapping(scenario(workload, rounds)).resolved()))
        command = [sys.executable, "-m", "fedopt", "simulate", str(path), "--out", str(out)]
        if processes > 1:
            launcher = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                str(processes),
                "--standalone",
            ]
            command = [*launcher, *command[1:]]
        limits = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **limits})
        if done.returncode:
            raise RuntimeError(f"{workload} on {processes} processes: {done.stderr.strip()[-800:]}")
        (directory,) = (out / workload).iterdir()
        found = fedopt.open_run(directory)
        wall = found.rounds.wall_s.to_numpy()
        model = np.concatenate([v.double().flatten().numpy() for v in found.parameters().values()])
        return np.diff(wall)[:-1].tolist(), model, str(found.summary["model_sha256"])


def measured(workload: str, repeats: int, rounds: int) -> dict[str, Any]:
    """Interleaved repeats of 1 and 2 processes."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    models: dict[int, np.ndarray] = {}
    hashes: dict[int, set[str]] = {1: set(), 2: set()}
    for repeat in range(repeats):
        for processes in (1, 2) if repeat % 2 == 0 else (2, 1):
            found, models[processes], name = run(workload, processes, rounds)
            seconds[processes] += found
            hashes[processes].add(name)
            print(f"repeat {repeat + 1} {workload} x{processes}: {statistics.median(found):.4f} s a round", flush=True)
    one, two = (statistics.median(seconds[n]) for n in (1, 2))
    difference = float(np.linalg.norm(models[1] - models[2]) / np.linalg.norm(models[1]))
    return {
        "seconds": {n: [min(each), statistics.median(each), max(each)] for n, each in seconds.items()},
        "samples": {n: len(each) for n, each in seconds.items()},
        "speedup": one / two,
        "efficiency": one / (2 * two),
        "relative_difference_per_step": difference / rounds,
        "same_bits": {n: len(each) == 1 for n, each in hashes.items()},
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"# Processes, {results['date']}",
        "",
        f"{results['machine']}, Python {platform.python_version()}, one thread a process; load average "
        f"{results['load_before'][0]:.1f} before, {results['load_after'][0]:.1f} after. {results['repeats']} "
        "interleaved repeats. Seconds of wall time a round: least, median, most.",
        "",
        "| workload | 1 process | 2 processes | speed-up | efficiency | models differ by, a step | same bits again |",
        "|---|---|---|---|---|---|---|",
    ]
    for workload, each in results["workloads"].items():
        shown = [" / ".join(f"{value:.3f}" for value in each["seconds"][n]) for n in (1, 2)]
        same = "not asked" if results["repeats"] == 1 else "yes" if all(each["same_bits"].values()) else "NO"
        lines.append(
            f"| {workload} | {shown[0]} | {shown[1]} | {each['speedup']:.2f} | {each['efficiency']:.2f} "
            f"| {each['relative_difference_per_step']:.1e} | {same} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=None, help="rounds of a run; fewer for a trial")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    before = os.getloadavg()
    found = {w: measured(w, options.repeats, options.rounds or ROUNDS[w]) for w in options.workloads}
    date = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    results = {
        "date": date,
        "machine": f"{_cpu_name()}, {os.cpu_count()} cores",
        "load_before": before,
        "load_after": os.getloadavg(),
        "repeats": options.repeats,
        "workloads": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"processes-{date}.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / f"processes-{date}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
