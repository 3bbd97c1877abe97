"""How cost grows with the population, the cohort and the model: ``python benchmarks/scale.py``.

population  1e3 to 1e6 clients, FedBuff with 100 at work and a buffer of 10, MLP 64-64-10
cohort      10 to 10,000 clients a round out of 20,000, FedAvg, the same MLP
model       1e4 to 1e7 parameters (two hidden layers of equal width), FedAvg with 10 clients a round

Every point is a whole run (log included, evaluation only at its end) of its own process on the digits, 20 examples a
client, one epoch of batches of 10. CPU seconds of ``driver.run`` per client update, split into client training and the
rest (server, clock, choice of clients, aggregation, log), which is the cost per event: every update is one event.
Set-up and peak memory stand beside. The exponent is the slope of a line through the logarithms.
Results: ``benchmarks/results/scale-<date>.json`` and ``.md``, and ``scale.svg`` for the documentation.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
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

from run import _cpu_name

HERE = Path(__file__).resolve().parent
SIZES = {
    "population": [1_000, 10_000, 100_000, 1_000_000],
    "cohort": [10, 100, 1_000, 10_000],
    "model": [10_000, 100_000, 1_000_000, 10_000_000],
}
UPDATES = {"population": 2_000, "cohort": 2_000, "model": 100}  # client updates of one run, at least
COHORT_POPULATION, MODEL_COHORT = 20_000, 10
COLUMNS = {"training_us": "training", "event_us": "everything else (one event)"}


def scenario(axis: str, size: int, updates: int) -> dict[str, Any]:
    """The scenario of one point as a mapping."""
    clients = {"population": size, "cohort": max(COHORT_POPULATION, 2 * size), "model": 100}[axis]
    cohort = {"population": 100, "cohort": size, "model": MODEL_COHORT}[axis]
    per_step = {"population": 10, "cohort": size, "model": MODEL_COHORT}[axis]
    width = round((math.sqrt(76**2 + 4 * size) - 76) / 2)  # width^2 + 76 width + 10 parameters
    steps = max(2, -(-updates // per_step))
    made: dict[str, Any] = {
        "name": f"{axis}-{size}",
        "data": {
            "kind": "digits",
            "clients": clients,
            "partition": {"kind": "dirichlet_with_replacement", "alpha": 0.5, "examples_per_client": 20},
        },
        "model": {"kind": "mlp", "hidden": [width, width] if axis == "model" else [64]},
        "client": {"kind": "sgd", "lr": 0.05, "batch_size": 10, "epochs": 1},
        "devices": {"compute": {"kind": "half_normal", "scale": 1.0}},
        "sampling": {"kind": "uniform", "concurrency": cohort},
        "aggregator": {"kind": "fedavg"},
        "run": {"server_steps": steps, "evaluate_every": steps, "checkpoint_every": steps, "evaluate_clients": "none"},
        "engine": {"threads": 1, "device": "cpu"},
    }
    if axis == "population":
        made["aggregator"] = {"kind": "fedbuff", "buffer_size": 10}
    return made


class TimedWork:
    """Client work that adds up the CPU seconds spent in it."""

    def __init__(self, inner: Any):
        self.inner, self.seconds = inner, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def work(self, cohort: Any, engine: Any) -> Any:
        """The inner work, timed."""
        before = time.process_time()
        reply = self.inner.work(cohort, engine)
        self.seconds += time.process_time() - before
        return reply


class TimedDriver:
    """A driver that measures its own run."""

    def __init__(self, inner: Any):
        self._inner, self.cpu, self.wall = inner, 0.0, 0.0

    @property
    def state(self) -> Any:
        """Of the driver inside."""
        return self._inner.state

    def run(self) -> Any:
        """Run, timed."""
        cpu, wall = time.process_time(), time.perf_counter()
        ended = self._inner.run()
        self.cpu, self.wall = time.process_time() - cpu, time.perf_counter() - wall
        return ended


def point(axis: str, size: int, updates: int) -> dict[str, Any]:
    """Run one point in this process."""
    from fedopt.scenario import from_mapping
    from fedopt.simulation.session import Session, on_virtual_clock

    kept: dict[str, Any] = {}

    def make_driver(parts: Any, hooks: Any) -> TimedDriver:
        kept["work"] = parts.computation.work = TimedWork(parts.computation.work)
        kept["ready"] = time.perf_counter()
        kept["driver"] = TimedDriver(on_virtual_clock(parts, hooks))
        return kept["driver"]

    with tempfile.TemporaryDirectory() as folder:
        wanted = from_mapping(scenario(axis, size, updates))
        began = time.perf_counter()
        summary = Session(wanted, Path(folder) / "run", quiet=True, make_driver=make_driver).run()
    done, driver, work = summary["admitted"], kept["driver"], kept["work"]
    return {
        "updates": done,
        "parameters": summary["num_parameters"],
        "total_us": 1e6 * driver.cpu / done,
        "training_us": 1e6 * work.seconds / done,
        "event_us": 1e6 * (driver.cpu - work.seconds) / done,
        "wall_us": 1e6 * driver.wall / done,
        "setup_s": kept["ready"] - began,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measured(axis: str, size: int, updates: int) -> dict[str, Any]:
    """One point in a fresh process.

    Raises:
        RuntimeError: the process failed; its last words.
    """
    command = [sys.executable, __file__, "--point", axis, str(size), "--updates", str(updates)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{axis} {size}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of the least-squares line through (log size, log value).

    >>> round(exponent([10, 100, 1000], [3.0, 300.0, 30000.0]), 6)
    2.0
    """
    x, y = [math.log(s) for s in sizes], [math.log(max(v, 1e-9)) for v in values]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def summarise(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and the range of the total."""
    middle = {name: statistics.median(s[name] for s in samples) for name in samples[0]}
    totals = [s["total_us"] for s in samples]
    return {**middle, "total_us_range": [min(totals), max(totals)]}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = results["machine"]
    lines = [
        f"# Scale, {results['date']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, one thread; load average "
        f"{results['load_before'][0]:.1f} before, {results['load_after'][0]:.1f} after. Medians of "
        f"{results['repeats']} runs; microseconds of CPU per client update.",
    ]
    for axis, points in results["axes"].items():
        sizes = [p["size"] for p in points]
        lines += ["", f"## {axis}", ""]
        lines += ["| " + axis + " | updates | total us | range | training us | per event us | set-up s | peak MiB |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for p in points:
            low, high = p["total_us_range"]
            lines += [
                f"| {p['size']:,} | {p['updates']:,.0f} | {p['total_us']:.0f} | {low:.0f} to {high:.0f} "
                f"| {p['training_us']:.0f} | {p['event_us']:.0f} | {p['setup_s']:.2f} | {p['peak_mib']:.0f} |"
            ]
        if len(points) > 1:
            fits = {name: exponent(sizes, [p[name] for p in points]) for name in ("total_us", *COLUMNS)}
            lines += [
                "",
                f"Exponents: total {fits['total_us']:+.2f}, training {fits['training_us']:+.2f}, "
                f"per event {fits['event_us']:+.2f}.",
            ]
    return "\n".join(lines) + "\n"


def figure(results: dict[str, Any], path: Path) -> None:
    """One panel per axis: cost per client update, training and everything else, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fedopt"
    from matplotlib import pyplot

    made, panels = pyplot.subplots(1, len(results["axes"]), figsize=(4 * len(results["axes"]), 3.4), squeeze=False)
    for panel, (axis, points) in zip(panels[0], results["axes"].items(), strict=True):
        sizes = [p["size"] for p in points]
        for (name, label), mark in zip(COLUMNS.items(), "os", strict=True):
            values = [p[name] for p in points]
            slope = f", exponent {exponent(sizes, values):+.2f}" if len(points) > 1 else ""
            panel.loglog(sizes, values, marker=mark, label=f"{label}{slope}")
        panel.set_xlabel({"population": "clients", "cohort": "clients a round", "model": "parameters"}[axis])
        panel.set_ylim(1, None)
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("CPU microseconds per client update")
    made.tight_layout()
    made.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=None, help="client updates of one run; fewer for a trial")
    parser.add_argument("--largest", type=int, default=None, help="leave out larger sizes, for a trial")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--add", type=Path, nargs="+", default=[], help="pool the samples of these earlier results")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "SIZE"), help="one point in this process, as JSON")
    options = parser.parse_args()
    if options.point:
        axis, size = options.point[0], int(options.point[1])
        print(json.dumps(point(axis, size, options.updates or UPDATES[axis])))
        return
    before = os.getloadavg()
    date = datetime.datetime.now().strftime("%Y-%m-%d-%H%M")
    wanted = {a: [s for s in SIZES[a] if options.largest is None or s <= options.largest] for a in options.axes}
    samples: dict[str, dict[int, list[dict[str, Any]]]] = {a: {s: [] for s in sizes} for a, sizes in wanted.items()}
    for path in options.add:
        for axis, found_sizes in json.loads(path.read_text())["samples"].items():
            for size, earlier in found_sizes.items():
                samples.setdefault(axis, {}).setdefault(int(size), []).extend(earlier)
    for repeat in range(options.repeats):
        for axis, sizes in wanted.items():
            for size in sizes:
                found = measured(axis, size, options.updates or UPDATES[axis])
                samples[axis][size].append(found)
                print(f"repeat {repeat + 1} {axis} {size:,}: {found['total_us']:.0f} us per update", flush=True)
            # After every axis, so that a run cut short leaves its table.
            done = {a: each for a, each in samples.items() if all(each.values())}
            write(done, date, before, options.out)


def write(samples: dict[str, Any], date: str, before: tuple[float, ...], out: Path) -> None:
    """Table, numbers and figure of the samples so far."""
    results = {
        "date": date,
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "load_before": before,
        "load_after": os.getloadavg(),
        "repeats": max(len(each) for found in samples.values() for each in found.values()),
        "axes": {a: [{"size": s, **summarise(each)} for s, each in found.items()] for a, found in samples.items()},
        "samples": samples,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"scale-{date}.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / f"scale-{date}.md").write_text(table(results))
    figure(results, out / "scale.svg")
    print(table(results), flush=True)


if __name__ == "__main__":
    main()
