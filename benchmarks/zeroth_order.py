"""Speed of the zeroth-order methods, as ratios: python benchmarks/zeroth_order.py [fzoos|program|spsa]

fzoos    one FZooS round (d = 300, N = 5, 10,000 features, after 5 rounds of queries): batched, and a Python loop over
         clients that does the same arithmetic with a solve per client and candidate (the results are compared), and
         the batched code one client at a time
program  the same round in the manner of the authors' program against the options that name its choices
spsa     a Rademacher SPSA step on a CNN of 1,663,370 parameters at batch 256 against its two forward passes alone

Repeats are interleaved; a ratio is taken within each repeat, and the table shows its median and range. Results go to
benchmarks/results/zeroth-order-<date>.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import _cpu_name
from torch.nn import functional
from zeroth_order_loops import PROGRAM, SETTINGS, loop_round, program_round

from fedopt.zeroth_order import fzoos_round as fzoos
from fedopt.zeroth_order import query_log, random_features, spsa

CLIENTS, DIMENSION, HETEROGENEITY = 5, 300, 5.0
HERE = Path(__file__).resolve().parent


def timed(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall seconds of every case in every repeat, interleaved, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median and range of the repeats' ratios."""
    found = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def quadratics() -> Callable[[torch.Tensor], torch.Tensor]:
    """The card's synthetic quadratics on [0, 1]^d."""
    draw = np.random.default_rng(0)
    shares = [draw.dirichlet(np.full(CLIENTS, 1 / CLIENTS), DIMENSION).T - 1 / CLIENTS for _ in range(2)]
    square, linear = (1 + HETEROGENEITY * torch.from_numpy(s) for s in shares)

    def objective(points: torch.Tensor, first: int = 0) -> torch.Tensor:
        x, rows = 20 * points - 10, slice(first, first + len(points))
        return ((square[rows, None] * x.square() + linear[rows, None] * x).sum(-1) + 1) / (10 * DIMENSION)

    return objective


def batched_round(log, point, maps, weights, own, objective, number, settings=SETTINGS):  # type: ignore[no-untyped-def]
    """One round of all clients; returns local points and weights."""
    keys = fzoos.round_keys(0, range(CLIENTS), number)
    phase = fzoos.local_phase(log, point.expand(CLIENTS, -1), maps, weights, own, objective, settings, keys, number)
    new = phase.points.mean(0)
    log, _ = fzoos.active_queries_at(phase.log, new, phase.points, objective, settings, keys, phase.lengthscales)
    return phase.points, fzoos.fit_weights(log, new, maps, settings), log


def prepare():  # type: ignore[no-untyped-def]
    objective = quadratics()
    maps = random_features.make(DIMENSION, SETTINGS.features, SETTINGS.feature_lengthscale, 1)
    point = torch.from_numpy(np.random.default_rng(1).random(DIMENSION))
    log = query_log.empty(CLIENTS, DIMENSION)
    log, _ = fzoos.initial_queries(
        log, point.expand(CLIENTS, -1), objective, SETTINGS, fzoos.round_keys(0, range(CLIENTS), 0)
    )
    weights = own = None
    for number in range(1, 6):
        ends, own, log = batched_round(log, point, maps, weights, own, objective, number)
        point, weights = ends.mean(0), own.mean(0)
    return log, point, maps, weights, own, objective


def bench_fzoos(repeats: int) -> dict[str, Any]:
    log, *rest = prepare()
    every = torch.arange(CLIENTS)
    cases = {
        "batched": lambda: batched_round(log.rows(every), *rest, 6),
        "one client at a time": lambda: one_at_a_time(log, *rest, 6),
        "Python loop": lambda: loop_round(log, *rest, 6),
    }
    fast, slow = cases["batched"](), cases["Python loop"]()
    seconds = timed(cases, repeats)
    return {
        "seconds": seconds,
        "ratios": {f"{n} / batched": ratio(seconds[n], seconds["batched"]) for n in list(cases)[1:]},
        "largest difference of local points": float((fast[0] - slow[0]).abs().max()),
        "relative difference of weights": float((fast[1] - slow[1]).norm() / slow[1].norm()),
    }


def one_at_a_time(log, point, maps, weights, own, objective, number):  # type: ignore[no-untyped-def]
    """The batched code with a cohort of one, for the local phase and the weights (around each client's own point)."""
    for i in range(CLIENTS):
        keys, mine = fzoos.round_keys(0, [i], number), lambda points, i=i: objective(points, i)
        alone = log.rows(torch.tensor([i]))
        phase = fzoos.local_phase(alone, point[None], maps, weights, own[i : i + 1], mine, SETTINGS, keys, number)
        alone, _ = fzoos.active_queries_at(
            phase.log, phase.points[0], point[None], mine, SETTINGS, keys, phase.lengthscales
        )
        fzoos.fit_weights(alone, phase.points[0], maps, SETTINGS)


def bench_program(repeats: int) -> dict[str, Any]:
    """A program round takes minutes, so it is repeated less."""
    log, *rest = prepare()
    every = torch.arange(CLIENTS)
    cases = {
        "batched, variant reference": lambda: batched_round(log.rows(every), *rest, 6, PROGRAM),
        "batched, defaults": lambda: batched_round(log.rows(every), *rest, 6, SETTINGS),
        "authors' program": lambda: program_round(log, *rest, 6),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for name in list(cases)[:2]:
        cases[name]()
    for _ in range(max(2, repeats // 2)):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - started)
    slow = seconds["authors' program"]
    return {"seconds": seconds, "ratios": {f"program / {n}": ratio(slow, seconds[n]) for n in list(cases)[:2]}}


class Cnn:
    """The CNN of the FedAvg paper as a function of a flat vector: 1,663,370 parameters."""

    shapes = ((32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (512, 3136), (512,), (10, 512), (10,))
    sizes = tuple(int(np.prod(s)) for s in shapes)

    def __init__(self) -> None:
        self.images = torch.randn(256, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(256) % 10

    def __call__(self, theta: torch.Tensor) -> torch.Tensor:
        pieces = theta.split(self.sizes)
        p = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        hidden = functional.max_pool2d(functional.conv2d(self.images, p[0], p[1], padding=2).relu(), 2)
        hidden = functional.max_pool2d(functional.conv2d(hidden, p[2], p[3], padding=2).relu(), 2)
        logits = functional.linear(functional.linear(hidden.flatten(1), p[4], p[5]).relu(), p[6], p[7])
        return functional.cross_entropy(logits, self.labels)


@torch.no_grad()
def bench_spsa(repeats: int) -> dict[str, Any]:
    network = Cnn()
    theta = 0.02 * torch.randn(sum(network.sizes), generator=torch.Generator().manual_seed(1))
    other, count = theta.clone(), iter(range(10**9))

    def losses(points: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(row) for row in points[0]])[None]

    cases = {
        "two forward passes": lambda: (network(theta), network(other)),
        "SPSA step, Rademacher": lambda: spsa.mezo_step(other, "rademacher", next(count), 0, 1e-3, 1e-6, losses),
        "SPSA step, Gaussian": lambda: spsa.mezo_step(other, "gaussian", next(count), 0, 1e-3, 1e-6, losses),
    }
    seconds = timed(cases, 4 * repeats)
    alone = seconds["two forward passes"]
    return {
        "seconds": seconds,
        "ratios": {f"two forward passes / {n}": ratio(alone, seconds[n]) for n in list(cases)[1:]},
    }


def report(results: dict[str, Any]) -> str:
    """The ratios as Markdown."""
    lines = [
        f"# Zeroth-order methods, {results['date']}",
        "",
        f"{results['cpu']}, {results['cores']} cores, {results['threads']} thread(s), PyTorch {results['torch']}.",
        "",
        "| measurement | ratio, median | least | most | median seconds |",
        "|---|---|---|---|---|",
    ]
    for what, found in results["measured"].items():
        for name, each in found["ratios"].items():
            cells = " | ".join(f"{each[k]:.3g}" for k in ("median", "least", "most"))
            lines.append(f"| {what}: {name} | {cells} | |")
        for name, samples in found["seconds"].items():
            lines.append(f"| {what}: {name} | | | | {statistics.median(samples):.3f} ({len(samples)} repeats) |")
        for name, value in found.items():
            if isinstance(value, float):
                lines.append(f"| {what}: {name} | {value:.2g} | | | |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benches = {"fzoos": bench_fzoos, "program": bench_program, "spsa": bench_spsa}
    parser.add_argument("what", nargs="*", choices=[*benches, []], help="default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    date = datetime.date.today().isoformat()
    stem = chosen.out / f"zeroth-order-{date}"
    old = json.loads(stem.with_suffix(".json").read_text()) if stem.with_suffix(".json").exists() else {"measured": {}}
    results = {
        "date": date, "cpu": _cpu_name(), "cores": os.cpu_count(), "threads": chosen.threads,
        "torch": torch.__version__, "python": platform.python_version(), "measured": old["measured"],
    }  # fmt: skip
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.what or benches:
        load = os.getloadavg()[0]
        results["measured"][name] = {**benches[name](chosen.repeats), "load average at the start": load}
        stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        stem.with_suffix(".md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
