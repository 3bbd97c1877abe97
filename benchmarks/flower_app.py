"""Flower's own simulation against fedopt's virtual grid on one Flower app: ``python benchmarks/flower_app.py``.

The app is Flower's FedAvg over W2 (MLP 784-200-10, Fashion-MNIST, 1,000 clients, Dirichlet 0.5, one epoch, batches of
10), 100 clients a round. Three ways, each a fresh process, interleaved: Flower's simulation engine; the same ServerApp
and ClientApp on ``VirtualGrid``; the same ServerApp with fedopt's vectorised client work. A sample is the wall seconds
of a round, and its CPU seconds. Start-up and the first round, which starts and imports what is missing, are left out:
for Flower by subtracting a run of one round, for the grid by a round before the clock starts.
Results go to ``benchmarks/results/flower-app-<date>.json`` and ``.md``. Linux only: it reads the machine's load.

Needs Flower's environment: ``python benchmarks/peers.py flower`` (``--borrow`` to share this one's PyTorch).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import FOLDER, python_of
from run import HERE, _cpu_name, _run
from workloads import make_bundle, save

WAYS = ("flower", "grid:plain", "grid:ours")
TITLES = {
    "flower": "Flower's simulation",
    "grid:plain": "VirtualGrid, the same ServerApp and ClientApp",
    "grid:ours": "VirtualGrid, the same ServerApp, fedopt's client work",
}


class Load:
    """Cores that other programs, and daemons nobody waited for, kept busy since it was made."""

    def __init__(self) -> None:
        self._began = self._now()

    def cores(self) -> float:
        """Until now."""
        wall, busy = (after - before for before, after in zip(self._began, self._now(), strict=True))
        return max(0.0, busy) / wall

    def _now(self) -> tuple[float, float]:
        """Seconds now, and seconds of all cores at work less those of the programs started here that have ended."""
        with open("/proc/stat") as file:
            ticks = [int(each) for each in file.readline().split()[1:9]]
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        work = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting for a disk
        return time.perf_counter(), work - own.ru_utime - own.ru_stime


def measure(way: str, bundle: Path, rounds: int, flower: Path) -> dict[str, Any]:
    """One sample: wall and CPU seconds per round, accuracy."""
    arguments: list[Any] = ["--bundle", bundle, "--workload", "W2", "--rounds"]
    if way != "flower":
        script = HERE / "contenders" / "grid_peer.py"
        return _run(Path(sys.executable), script, [*arguments, rounds, "--variant", way.partition(":")[2]], 1)[0]
    script = HERE / "contenders" / "flower_peer.py"
    short, base = _run(flower, script, [*arguments, 1], 1)
    long, total = _run(flower, script, [*arguments, rounds], 1)
    if "error" in short or "error" in long:
        return short if "error" in short else long
    wall = long["wall_s"] * rounds - short["wall_s"]  # the first round starts the workers, in both
    return {**long, "wall_s": wall / (rounds - 1), "cpu_s": (total - base) / (rounds - 1)}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine, samples = results["machine"], results["samples"]
    busy = [sample["others"] for way, found in samples.items() if way != "flower" for sample in found]
    lines = [
        f"# A Flower app, {results['date']}",
        "",
        f"`python benchmarks/flower_app.py --repeats {results['repeats']} --rounds {results['rounds']}`; "
        f"{machine['cores']} cores of a shared {machine['cpu']}, CPU only, Python {machine['python']}. Data: "
        f"{results['source']}. {results['cohort']} of {results['clients']} clients a round; medians of "
        f"{results['repeats']} interleaved repeats, least and most in brackets. Ratios are to Flower's simulation. "
        f"While the grid ran, other programs kept {min(busy):.2f} to {max(busy):.2f} cores busy. Flower's CPU time "
        "misses what Ray's daemons use.",
        "",
        "| | wall s per round | ratio | CPU s per round | ratio | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    medians = {w: {n: statistics.median(s[n] for s in found) for n in ("wall_s", "cpu_s", "accuracy")}
               for w, found in samples.items()}  # fmt: skip
    for way, found in samples.items():
        cells = [TITLES[way]]
        for name in ("wall_s", "cpu_s"):
            values = [sample[name] for sample in found]
            cells.append(f"{medians[way][name]:.3f} ({min(values):.3f} to {max(values):.3f})")
            cells.append(f"{medians['flower'][name] / medians[way][name]:.1f}")
        cells.append(f"{medians[way]['accuracy']:.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=11, help="rounds of each process, at least 2")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--go-on", type=Path, help="results file to add whole repeats to, up to --repeats")
    parser.add_argument("--peer-folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    flower = python_of("flower", options.peer_folder)
    if not flower.exists():
        sys.exit("Flower's environment is missing; run: python benchmarks/peers.py flower")
    date = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    file = options.go_on or options.out / f"flower-app-{date}.json"
    results: dict[str, Any] = {"date": date, "rounds": options.rounds, "samples": {way: [] for way in WAYS}}
    if file.exists():
        results = json.loads(file.read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.npz"
        bundle = make_bundle(1, options.clients, options.cohort)
        save(bundle, path)
        results |= {"clients": options.clients, "cohort": options.cohort, "source": bundle.source}
        results["machine"] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}
        for repeat in range(len(results["samples"]["flower"]), options.repeats):
            found: dict[str, dict[str, Any]] = {}
            for way in WAYS[repeat % 3 :] + WAYS[: repeat % 3]:
                load = Load()
                found[way] = measure(way, path, results["rounds"], flower)
                if "error" in found[way]:
                    sys.exit(f"{way}: {found[way]['error']}")
                found[way]["others"] = load.cores()
                print(f"repeat {repeat + 1} {way}: {found[way]}", flush=True)
            for way, sample in found.items():
                results["samples"][way].append(sample)
            results["repeats"] = repeat + 1
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
