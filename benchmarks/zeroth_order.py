"""Speed of the zeroth-order methods: python benchmarks/zeroth_order.py [fzoos|spsa|fit] [--repeats 5] [--threads 1]

fzoos   one FZooS round (d = 300, N = 5, 10,000 features, after 5 rounds of queries): batched against a Python loop over
        clients that does the same arithmetic with a solve per client and candidate; both results are compared
fit     one surrogate fit and gradient in the manner of the authors' program (scikit-learn, marginal likelihood with
        20 restarts, finite differences of the prediction), one client and one local step, against five clients here
spsa    a Rademacher SPSA step on a CNN of 1,663,370 parameters at batch 256 against its two forward passes alone

Prints medians of interleaved repeats, wall and CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from fedopt.zeroth_order import fzoos_round as fzoos
from fedopt.zeroth_order import gaussian_process as gp
from fedopt.zeroth_order import query_log, random_features, spsa
from fedopt.zeroth_order.directions import uniform
from fedopt.zeroth_order.settings import FzoosSettings

CLIENTS, DIMENSION, HETEROGENEITY = 5, 300, 5.0
SETTINGS = FzoosSettings()


def timed(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median (wall, CPU) seconds per case, repeats interleaved after one warm-up each."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            case()
            if repeat:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {n: (statistics.median(w for w, _ in s), statistics.median(c for _, c in s)) for n, s in seconds.items()}


def show(title: str, medians: dict[str, tuple[float, float]]) -> None:
    print(title)
    for name, (wall, cpu) in medians.items():
        print(f"  {name:<40} {wall:9.4f} s wall {cpu:9.4f} s CPU")


def quadratics() -> Callable[[torch.Tensor], torch.Tensor]:
    """The card's synthetic quadratics on [0, 1]^d."""
    draw = np.random.default_rng(0)
    shares = [draw.dirichlet(np.full(CLIENTS, 1 / CLIENTS), DIMENSION).T - 1 / CLIENTS for _ in range(2)]
    square, linear = (1 + HETEROGENEITY * torch.from_numpy(s) for s in shares)

    def objective(points: torch.Tensor, first: int = 0) -> torch.Tensor:
        x, rows = 20 * points - 10, slice(first, first + len(points))
        return ((square[rows, None] * x.square() + linear[rows, None] * x).sum(-1) + 1) / (10 * DIMENSION)

    return objective


def batched_round(log, point, maps, weights, own, objective, number):  # type: ignore[no-untyped-def]
    """One round of all clients; returns local points and weights."""
    keys = fzoos.round_keys(0, range(CLIENTS), number)
    phase = fzoos.local_phase(log, point.expand(CLIENTS, -1), maps, weights, own, objective, SETTINGS, keys, number)
    new = phase.points.mean(0)
    log, _ = fzoos.active_queries_at(phase.log, new, phase.points, objective, SETTINGS, keys, phase.lengthscales)
    return phase.points, fzoos.fit_weights(log, new, maps, SETTINGS), log


class LoopClient:
    """One client written the obvious way: lists, one solve per use, one Jacobian per candidate."""

    def __init__(self, number: int, log: query_log.QueryLog, objective):  # type: ignore[no-untyped-def]
        self.number, self.objective = number, objective
        size = int(log.counts[number])
        self.points = list(log.points[number, :size].numpy())
        self.values = [float(v) for v in log.values[number, :size]]

    def query(self, point: np.ndarray) -> None:
        value = self.objective(torch.from_numpy(point)[None, None], self.number)
        self.points.append(point)
        self.values.append(float(value))

    def window(self, centre: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, float]:
        points, values = np.array(self.points), np.array(self.values)
        nearest = np.argsort([np.linalg.norm(p - centre) for p in points])[:size]
        values = values[nearest]
        span = values.max() - values.min()
        return points[nearest], (values - values.min()) / span, span

    def choose(self, centre: np.ndarray) -> float:
        points, values, _ = self.window(centre, SETTINGS.window or len(self.points))
        squared = ((points[:, None] - points) ** 2).sum(-1)
        best = []
        for length in SETTINGS.lengthscales:
            matrix = np.exp(-squared / (2 * length**2)) + SETTINGS.ridge * np.eye(len(points))
            best.append(-0.5 * values @ np.linalg.solve(matrix, values) - 0.5 * np.linalg.slogdet(matrix)[1])
        return SETTINGS.lengthscales[int(np.argmax(best))]

    def fit(self, centre: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        points, values, span = self.window(centre, SETTINGS.window or len(self.points))
        squared = ((points[:, None] - points) ** 2).sum(-1)
        return points, np.exp(-squared / (2 * length**2)) + SETTINGS.ridge * np.eye(len(points)), values, span

    def active(self, centre: np.ndarray, length: float, drawn: np.ndarray, count: int) -> None:
        points, matrix, _, _ = self.fit(centre, length)
        traces = []
        for candidate in drawn:
            jacobian = self.jacobian(candidate, points, length)
            traces.append(len(centre) / length**2 - np.sum(jacobian * np.linalg.solve(matrix, jacobian)))
        for best in np.argsort(traces)[-count:]:
            self.query(drawn[best])

    @staticmethod
    def jacobian(x: np.ndarray, points: np.ndarray, length: float) -> np.ndarray:
        difference = x - points
        return -difference / length**2 * np.exp(-(difference**2).sum(1) / (2 * length**2))[:, None]


def candidates(client: int, number: int, draw: int, centre: np.ndarray, count: int, width: float) -> np.ndarray:
    """The batched code's candidates, so that both do the same round."""
    unit = uniform(fzoos.round_keys(0, [client], number), count * DIMENSION, draw)[0].numpy()
    return np.clip(centre + width * (2 * unit.reshape(count, DIMENSION) - 1), 0, 1)


def loop_round(log, point, maps, weights, own, objective, number):  # type: ignore[no-untyped-def]
    """The same round with a Python loop over clients."""
    frequencies, phases = maps.frequencies.numpy(), maps.phases.numpy()

    def feature_gradient(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return -maps.amplitude * (np.sin(frequencies @ x + phases) * w) @ frequencies

    clients = [LoopClient(i, log, objective) for i in range(CLIENTS)]
    ends, scales = [], []
    for i, client in enumerate(clients):
        x, first, second = point.numpy(), np.zeros(DIMENSION), np.zeros(DIMENSION)
        client.query(x)
        scales.append(client.choose(x))
        for turn in range(1, SETTINGS.local_steps + 1):
            points, matrix, values, span = client.fit(x, scales[i])
            gradient = span * client.jacobian(x, points, scales[i]).T @ np.linalg.solve(matrix, values)
            gradient += (feature_gradient(x, weights.numpy()) - feature_gradient(x, own[i].numpy())) / turn
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            x = x - 0.01 * first / (1 - 0.9**turn) / (np.sqrt(second / (1 - 0.999**turn)) + 1e-8)
            x = np.clip(x, 0, 1)
            client.query(x)
            if turn < SETTINGS.local_steps:
                drawn = candidates(i, number, 1 + turn, x, SETTINGS.candidates, SETTINGS.box)
                client.active(x, scales[i], drawn, SETTINGS.active_queries)
        ends.append(x)
    new, fitted = np.mean(ends, 0), []
    for i, client in enumerate(clients):
        client.query(new)
        width = 0.5 * float(np.abs(new - ends[i]).mean())
        drawn = candidates(i, number, 1, new, SETTINGS.global_candidates, width)
        client.active(new, scales[i], drawn, SETTINGS.global_active_queries)
        points, values, span = client.window(new, SETTINGS.feature_window or len(client.points))
        phi = maps.amplitude * np.cos(points @ frequencies.T + phases)
        solved = np.linalg.solve(phi @ phi.T + SETTINGS.feature_ridge * np.eye(len(points)), values)
        fitted.append(span * solved @ phi)
    return torch.from_numpy(np.array(ends)), torch.from_numpy(np.array(fitted)), None


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


def bench_fzoos(repeats: int) -> None:
    log, *rest = prepare()
    every = torch.arange(CLIENTS)
    cases = {
        "batched": lambda: batched_round(log.rows(every), *rest, 6),
        "loop over clients": lambda: loop_round(log, *rest, 6),
    }
    fast, slow = cases["batched"](), cases["loop over clients"]()
    same = float((fast[0] - slow[0]).abs().max())
    weights = float((fast[1] - slow[1]).norm() / slow[1].norm())
    medians = timed(cases, repeats)
    show(f"FZooS round, d={DIMENSION}, N={CLIENTS}", medians)
    (wall, cpu), (loop_wall, loop_cpu) = medians["batched"], medians["loop over clients"]
    print(f"  ratio {loop_wall / wall:.1f} wall, {loop_cpu / cpu:.1f} CPU")
    print(f"  largest difference of local points {same:.1e}, relative difference of weights {weights:.1e}")


def bench_fit(repeats: int) -> None:
    import warnings

    from scipy.optimize import approx_fprime
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    log, point, *_ = prepare()
    window = query_log.nearest(log, point.expand(CLIENTS, -1), 150)
    scaled = gp.scale_outputs(window.values, window.mask)[0]

    def authors() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process = GaussianProcessRegressor(Matern(nu=2.5), alpha=1e-6, n_restarts_optimizer=20, random_state=0)
            process.fit(window.points[0].numpy(), scaled[0].numpy())
            approx_fprime(point.numpy(), lambda x: process.predict(x[None])[0], 1e-8)

    def batched() -> None:
        scales = gp.choose_lengthscale(window.points, window.values, "matern52", SETTINGS.lengthscales, 1e-6)
        surrogate = gp.fit(window.points, window.values, "matern52", scales, 1e-6)
        gp.gradient(surrogate, point.expand(CLIENTS, 1, -1))

    medians = timed({"scikit-learn, 1 client": authors, "batched, 5 clients": batched}, repeats)
    show("surrogate fit and gradient of one local step", medians)
    ratio = CLIENTS * medians["scikit-learn, 1 client"][1] / medians["batched, 5 clients"][1]
    print(f"  ratio per client {ratio:.0f} CPU")


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
def bench_spsa(repeats: int) -> None:
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
    medians = timed(cases, repeats)
    show(f"SPSA, {theta.numel():,} parameters, batch 256", medians)
    base = medians["two forward passes"]
    for name, (wall, cpu) in list(medians.items())[1:]:
        print(f"  {name}: {base[0] / wall:.3f} of the speed of two forward passes (wall), {base[1] / cpu:.3f} (CPU)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    benches = {"fzoos": bench_fzoos, "fit": bench_fit, "spsa": bench_spsa}
    parser.add_argument("what", nargs="*", choices=[*benches, []], help="default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name in chosen.what or benches:
        benches[name](chosen.repeats)


if __name__ == "__main__":
    main()
