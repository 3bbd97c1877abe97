"""Measure the contenders side by side: ``python benchmarks/run.py --workloads W2 W3 --repeats 3``.

Every repeat runs every contender once, each in a fresh process, in a rotating order, on the same data and cohorts. A
sample is one round after a warm-up round; the table shows medians over all samples, quartiles, and test accuracy beside
the speed. Results go to ``benchmarks/results/<date>.json`` and ``.md`` with machine, versions and load.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers import FOLDER, python_of
from workloads import CLIENTS, COHORT, PRIVACY, TITLES, make_bundle, save

HERE = Path(__file__).resolve().parent
OURS = ("ours:auto", "ours:loop", "ours:batched", "ours:dual", "ours:vmap", "ours:auto-bf16")
PEERS = ("fedjax", "pfl", "flower")
ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def applies(contender: str, workload: str) -> bool:
    """Whether a contender can do a workload at all (see the contenders' own pages for why not)."""
    privacy = PRIVACY.get(workload)
    if contender == "flower":
        return privacy is None
    if contender == "pfl":
        return privacy != "example"
    return not (contender.endswith("bf16") and workload != "W1")


def interpreter(contender: str, workload: str, folder: Path) -> Path | None:
    """The Python that runs a contender, or None where its environment is missing."""
    name = contender.partition(":")[0]
    if name == "plain" and PRIVACY.get(workload) == "example":
        name = "opacus"
    if name in ("ours", "plain"):
        return Path(sys.executable)
    found = python_of(name, folder)
    return found if found.exists() else None


def measure(contender: str, workload: str, bundle: Path, rounds: int, threads: int, folder: Path) -> dict[str, Any]:
    """One process of one contender; its samples, or what went wrong."""
    python = interpreter(contender, workload, folder)
    if python is None:
        return {"error": "its environment is missing; run benchmarks/peers.py"}
    name, _, variant = contender.partition(":")
    if name == "flower":
        return _from_outside(python, workload, bundle, rounds)
    script = HERE / "contenders" / (f"{name}.py" if name in ("ours", "plain") else f"{name}_peer.py")
    arguments = ["--bundle", bundle, "--workload", workload, "--threads", threads, "--variant", variant or "auto"]
    return _run(python, script, arguments, threads)[0]


def _from_outside(python: Path, workload: str, bundle: Path, rounds: int) -> dict[str, Any]:
    """CPU per round of a framework with many processes: a long run minus a run of one round."""
    script = HERE / "contenders" / "flower_peer.py"
    arguments = ["--bundle", bundle, "--workload", workload, "--rounds"]
    short, base = _run(python, script, [*arguments, 1], 1)
    long, total = _run(python, script, [*arguments, rounds + 1], 1)
    if "error" in short or "error" in long:
        return short if "error" in short else long
    return {**long, "cpu_s": [(total - base) / rounds], "wall_s": [long["wall_s"]]}


def _run(python: Path, script: Path, arguments: list[Any], threads: int) -> tuple[dict[str, Any], float]:
    """A process's last line as JSON, and the CPU seconds of the process and its children."""
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    if threads == 1:
        limits["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(python), str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, **limits, "PYTHONPATH": str(HERE.parent)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}, cpu
    return json.loads(done.stdout.strip().splitlines()[-1]), cpu


def summarise(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and quartiles over all samples of all repeats of one contender on one workload."""
    good = [sample for sample in samples if "error" not in sample]
    if not good:
        return {"error": samples[-1]["error"]}
    cpu = sorted(value for sample in good for value in sample["cpu_s"])
    wall = sorted(value for sample in good for value in sample["wall_s"])
    quartiles = statistics.quantiles(cpu, n=4, method="inclusive") if len(cpu) > 1 else [cpu[0]] * 3
    return {
        "cpu_s_per_round": statistics.median(cpu),
        "cpu_s_per_client_update": statistics.median(cpu) / COHORT,
        "cpu_s_quartiles": [quartiles[0], quartiles[2]],
        "cpu_s_least": cpu[0],
        "wall_s_per_round": statistics.median(wall),
        "samples": len(cpu),
        "accuracy": statistics.median(sample["accuracy"] for sample in good),
        "versions": good[-1]["versions"],
        "description": good[-1].get("description"),
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, fastest first."""
    machine = results["machine"]
    lines = [
        f"# Speed, {results['date']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {results['threads']} thread(s); load "
        f"average {results['load_before'][0]:.1f} before, {results['load_after'][0]:.1f} after. Data: "
        f"{results['source']}. {results['repeats']} interleaved repeats of {results['rounds']} timed rounds, "
        f"{COHORT} clients a round. CPU seconds; ratios are to the plain loop, above 1 is faster.",
    ]
    for workload, found in results["workloads"].items():
        lines += ["", f"## {workload}: {TITLES[workload]}", ""]
        lines += ["| contender | CPU s per round | quartiles | least | per client update | wall s | ratio | accuracy |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        yardstick = found.get("plain", {}).get("cpu_s_per_round")
        ranked = sorted(found.items(), key=lambda item: item[1].get("cpu_s_per_round", float("inf")))
        lines += [_row(name, each, yardstick) for name, each in ranked]
    return "\n".join(lines) + "\n"


def _row(name: str, each: dict[str, Any], yardstick: float | None) -> str:
    if "error" in each:
        return f"| {name} | not run: {each['error']} | | | | | | |"
    ratio = f"{yardstick / each['cpu_s_per_round']:.2f}" if yardstick else ""
    low, high = each["cpu_s_quartiles"]
    return (
        f"| {name} | {each['cpu_s_per_round']:.4f} | {low:.4f} to {high:.4f} | {each['cpu_s_least']:.4f} "
        f"| {each['cpu_s_per_client_update']:.6f} | {each['wall_s_per_round']:.4f} | {ratio} | {each['accuracy']:.4f} |"
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--contenders", nargs="+", default=["plain", *OURS])
    parser.add_argument("--peers", action="store_true", help="also the peers that benchmarks/peers.py has set up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-folder", type=Path, default=FOLDER)
    parser.add_argument("--clients", type=int, default=CLIENTS, help="fewer for a trial of the scripts")
    parser.add_argument("--examples", type=int, default=None, help="fewer for a trial of the scripts")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    contenders = [*options.contenders, *(PEERS if options.peers else ())]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {w: {} for w in options.workloads}
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.npz"
        bundle = make_bundle(options.rounds + 1, options.clients, examples=options.examples)
        save(bundle, path)
        for repeat in range(options.repeats):
            for workload in options.workloads:
                turn = contenders[repeat % len(contenders) :] + contenders[: repeat % len(contenders)]
                for contender in (each for each in turn if applies(each, workload)):
                    sample = measure(contender, workload, path, options.rounds, options.threads, options.peer_folder)
                    found[workload].setdefault(contender, []).append(sample)
                    shown = sample.get("error") or f"{statistics.median(sample['cpu_s']):.4f} CPU s per round"
                    print(f"repeat {repeat + 1} {workload} {contender}: {shown}", flush=True)
    date = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    results = {
        "date": date,
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "load_before": before,
        "load_after": os.getloadavg(),
        "source": bundle.source,
        "threads": options.threads,
        "repeats": options.repeats,
        "rounds": options.rounds,
        "workloads": {w: {name: summarise(samples) for name, samples in each.items()} for w, each in found.items()},
        "samples": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{date}.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / f"{date}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
