"""What a whole simulated run costs per client update, asynchronous against synchronous.

``python benchmarks/simulation.py`` runs ``fedopt simulate`` in fresh processes on W2 and W3: FedAvg with cohorts of 50,
and FedBuff with 50 clients at work and a buffer of 10, on devices of random speed. A sample is the CPU time of a long
run minus that of a short one over the difference in client updates, so that loading data and imports do not count, but
the clock, the server and the run's files do; both save a checkpoint every 1000 updates. Methods take turns.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from run import HERE, _cpu_name
from workloads import BATCH_SIZE, CLIENTS, COHORT, LR, MODELS

BUFFER = 10
KINDS = {"logistic": {"kind": "logistic_regression"}, "mlp": {"kind": "mlp", "hidden": [200]}}
METHODS = {"FedAvg": {"kind": "fedavg"}, "FedBuff": {"kind": "fedbuff", "buffer_size": BUFFER}}


def scenario(workload: str, method: str, updates: int, clients: int) -> dict[str, Any]:
    """A run of so many client updates, evaluated once at its end."""
    size = COHORT if method == "FedAvg" else BUFFER
    steps, saved = updates // size, 1000 // size
    return {
        "name": f"{workload}-{method}",
        "data": {"kind": "fashion_mnist", "clients": clients, "partition": {"kind": "dirichlet", "alpha": 0.5}},
        "model": KINDS[MODELS[workload]],
        "client": {"kind": "sgd", "lr": LR, "batch_size": BATCH_SIZE, "epochs": 1},
        "devices": {"compute": {"kind": "half_normal", "scale": 1.0}},
        "sampling": {"kind": "uniform", "concurrency": COHORT},
        "aggregator": METHODS[method],
        "run": {"server_steps": steps, "evaluate_every": steps, "evaluate_clients": "none", "checkpoint_every": saved},
    }


def run(settings: dict[str, Any], folder: Path) -> tuple[float, float]:
    """CPU seconds of a simulation, and the accuracy at its end."""
    file = folder / "scenario.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = folder / f"runs-{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "fedopt", "simulate", str(file), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (summary,) = out.glob("*/*/summary.json")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, float(json.loads(summary.read_text())["final_metric"])


def sample(workload: str, method: str, updates: int, clients: int) -> dict[str, float]:
    """CPU seconds per client update, and the accuracy of the long run."""
    with tempfile.TemporaryDirectory() as folder:
        short, _ = run(scenario(workload, method, updates // 5, clients), Path(folder))
        long, accuracy = run(scenario(workload, method, updates, clients), Path(folder))
    return {"cpu_s_per_client_update": (long - short) / (updates - updates // 5), "accuracy": accuracy}


def table(results: dict[str, Any]) -> str:
    """Medians, spread, and FedBuff over FedAvg."""
    lines = [
        f"# Whole simulations, {results['date']}",
        "",
        f"{results['cpu']}, {os.cpu_count()} cores, one thread; load average {results['load_before'][0]:.1f} before, "
        f"{results['load_after'][0]:.1f} after. CPU milliseconds per client update of `fedopt simulate`, without its "
        f"start and end; {results['updates']} updates a run. Ratio: FedBuff over FedAvg, wanted at most 1.2.",
        "",
        "| workload | method | median ms | least to most | samples | accuracy | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for workload, found in results["samples"].items():
        medians = {m: statistics.median(s["cpu_s_per_client_update"] for s in each) for m, each in found.items()}
        for method, each in found.items():
            values = [1e3 * s["cpu_s_per_client_update"] for s in each]
            accuracy = statistics.median(s["accuracy"] for s in each)
            ratio = f"{medians[method] / medians['FedAvg']:.2f}" if method != "FedAvg" else ""
            lines.append(
                f"| {workload} | {method} | {1e3 * medians[method]:.3f} | {min(values):.3f} to {max(values):.3f} "
                f"| {len(values)} | {accuracy:.4f} | {ratio} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=["W2", "W3"], choices=["W2", "W3"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    samples: dict[str, dict[str, list[dict[str, float]]]] = {w: {m: [] for m in METHODS} for w in options.workloads}
    before = os.getloadavg()
    for repeat in range(options.repeats):
        for workload in options.workloads:
            for method in sorted(METHODS, reverse=bool(repeat % 2)):
                samples[workload][method].append(sample(workload, method, options.updates, options.clients))
                print(f"repeat {repeat + 1} {workload} {method}: {samples[workload][method][-1]}", flush=True)
    date = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    results = {
        "date": date,
        "cpu": _cpu_name(),
        "load_before": before,
        "load_after": os.getloadavg(),
        "updates": options.updates,
        "samples": samples,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"simulation-{date}.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / f"simulation-{date}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
