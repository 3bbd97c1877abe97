"""Measure the contenders side by side: ``python benchmarks/run.py --workloads W2 W3 --repeats 3``.

Every repeat runs every contender once, each in a fresh process, in a rotating order, on the same data and cohorts. A
sample is one round after a warm-up round. Samples go to ``benchmarks/results/<date>.json`` with machine, versions and
load, and the table made of them to ``.md``: medians, quartiles, and test accuracy beside the speed. With ``--minutes``
a call stops early, and ``--go-on FILE`` goes on where it stopped, so that a long measurement can be made in pieces.
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
import time
from pathlib import Path
from typing import Any

from peers import FOLDER, python_of
from tables import table
from workloads import CLIENTS, PRIVACY, TITLES, make_bundle, save

HERE = Path(__file__).resolve().parent
FORMULATIONS = ("ours", "ours:loop", "ours:batched", "ours:dual", "ours:vmap", "ours:auto-bf16")
PEERS = ("plain", "plain@2", "pfl", "fedjax", "fedjax@2", "fedjax-2024", "fedjax-2024@2", "flower", "ours", "ours@2")
PEERS += ("ours:auto-bf16", "ours:auto-bf16@2")
ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def parsed(contender: str) -> tuple[str, str, int]:
    """``name:variant@threads`` taken apart."""
    rest, _, threads = contender.partition("@")
    name, _, variant = rest.partition(":")
    return name, variant or "auto", int(threads or 1)


def applies(contender: str, workload: str) -> bool:
    """Whether a contender can do a workload at all (see the contenders' own pages for why not)."""
    name, variant, _ = parsed(contender)
    if name in ("flower", "pfl") and PRIVACY.get(workload) == "example":
        return False
    return not (variant.endswith("bf16") and workload != "W1")


def is_slow(contender: str, workload: str) -> bool:
    """Whether a round takes so long that fewer repeats and rounds must do."""
    name = parsed(contender)[0]
    return name == "flower" or (name.startswith("fedjax") and workload in ("W1", "W5"))


def interpreter(name: str, workload: str, folder: Path) -> Path | None:
    """The Python that runs a contender, or None where its environment is missing."""
    if name == "plain" and PRIVACY.get(workload) == "example":
        name = "opacus"
    if name in ("ours", "plain"):
        return Path(sys.executable)
    found = python_of(name, folder)
    return found if found.exists() else None


def measure(contender: str, workload: str, bundle: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """One process of one contender; its samples, or what went wrong."""
    name, variant, threads = parsed(contender)
    python = interpreter(name, workload, folder)
    if python is None:
        return {"error": "its environment is missing; run benchmarks/peers.py"}
    if name == "flower":
        return _from_outside(python, workload, bundle, rounds)
    script = HERE / "contenders" / (f"{name}.py" if name in ("ours", "plain") else f"{name.split('-')[0]}_peer.py")
    arguments = ["--bundle", bundle, "--workload", workload, "--threads", threads, "--variant", variant]
    return _run(python, script, [*arguments, "--rounds", rounds], threads)[0]


def _from_outside(python: Path, workload: str, bundle: Path, rounds: int) -> dict[str, Any]:
    """Seconds per round of a framework with many processes: a long run minus a run of one round."""
    script = HERE / "contenders" / "flower_peer.py"
    arguments = ["--bundle", bundle, "--workload", workload, "--rounds"]
    short, base = _run(python, script, [*arguments, 1], 1)
    long, total = _run(python, script, [*arguments, rounds + 1], 1)
    if "error" in short or "error" in long:
        return short if "error" in short else long
    wall = (long["wall_s"] * (rounds + 1) - short["wall_s"]) / rounds
    return {**long, "cpu_s": [(total - base) / rounds], "wall_s": [wall]}


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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def gather(results: dict[str, Any], options: argparse.Namespace, path: Path) -> None:
    """Add samples until every contender has its repeats, or time is up."""
    started, samples = time.monotonic(), results["samples"]
    for repeat in range(options.repeats):
        turn = (
            options.contenders[repeat % len(options.contenders) :]
            + options.contenders[: repeat % len(options.contenders)]
        )
        for workload in options.workloads:
            for contender in (each for each in turn if applies(each, workload)):
                had = samples.setdefault(workload, {}).setdefault(contender, [])
                slow = is_slow(contender, workload)
                if len(had) > repeat or (slow and repeat >= options.slow_repeats):
                    continue
                if options.minutes is not None and time.monotonic() - started > 60 * options.minutes:
                    return
                sample = measure(contender, workload, path, 2 if slow else options.rounds, options.peer_folder)
                had.append(sample)
                shown = sample.get("error") or f"{statistics.median(sample['cpu_s']):.4f} CPU s per round"
                print(f"repeat {repeat + 1} {workload} {contender}: {shown}", flush=True)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--contenders", nargs="+", default=["plain", *FORMULATIONS])
    parser.add_argument(
        "--peers", action="store_true", help="ours against the peers that benchmarks/peers.py has set up"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow-repeats", type=int, default=2, help="of contenders whose round takes seconds")
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds of each process (2 where they take long)")
    parser.add_argument("--minutes", type=float, help="begin no measurement after this long")
    parser.add_argument("--go-on", type=Path, help="results file to add to")
    parser.add_argument("--peer-folder", type=Path, default=FOLDER)
    parser.add_argument("--clients", type=int, default=CLIENTS, help="fewer for a trial of the scripts")
    parser.add_argument("--examples", type=int, default=None, help="fewer for a trial of the scripts")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.contenders = list(PEERS) if options.peers else options.contenders
    date = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    file = options.go_on or options.out / f"{date}.json"
    results: dict[str, Any] = {"date": date, "pieces": [], "samples": {}, "rounds": options.rounds}
    if file.exists():
        results = json.loads(file.read_text())
    results["machine"] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.npz"
        bundle = make_bundle(options.rounds + 1, options.clients, examples=options.examples)
        save(bundle, path)
        results["source"] = bundle.source
        before = os.getloadavg()
        gather(results, options, path)
    results["pieces"].append({"date": date, "load_before": before, "load_after": os.getloadavg()})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
