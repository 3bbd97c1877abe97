"""FZooS rounds written with a Python loop over clients, for benchmarks/zeroth_order.py.

`loop_round` does the arithmetic of fedopt's defaults one client, one solve and one Jacobian at a time. `program_round`
does what the authors' program does, written anew from its description: per client and local step a scikit-learn
process with Matern-5/2 kernel, whose length scale is fitted by marginal likelihood with 20 restarts, candidates ranked
by the variance of the first partial derivative under a squared exponential kernel, plain float64 random features.
Where the description leaves room it is generous: gradients are analytic and candidates share one factorisation.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from fedopt.zeroth_order import fzoos_round as fzoos
from fedopt.zeroth_order.directions import uniform
from fedopt.zeroth_order.query_log import QueryLog
from fedopt.zeroth_order.settings import FzoosSettings

SETTINGS = FzoosSettings()
PROGRAM = FzoosSettings.reference()


class LoopClient:
    """One client written the obvious way: lists, one solve per use, one Jacobian per candidate."""

    def __init__(self, number: int, log: QueryLog, objective):  # type: ignore[no-untyped-def]
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
    unit = uniform(fzoos.round_keys(0, [client], number), count * len(centre), draw)[0].numpy()
    return np.clip(centre + width * (2 * unit.reshape(count, len(centre)) - 1), 0, 1)


def feature_gradient(maps: Any, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    frequencies, phases = maps.frequencies.numpy(), maps.phases.numpy()
    return -maps.amplitude * (np.sin(frequencies @ x + phases) * weights) @ frequencies


def feature_weights(maps: Any, points: np.ndarray, values: np.ndarray, ridge: float) -> np.ndarray:
    phi = maps.amplitude * np.cos(points @ maps.frequencies.numpy().T + maps.phases.numpy())
    return np.linalg.solve(phi @ phi.T + ridge * np.eye(len(points)), values) @ phi


def adam(moments: list[np.ndarray], gradient: np.ndarray, turn: int) -> np.ndarray:
    """The displacement; moments are updated in place."""
    moments[0] = 0.9 * moments[0] + 0.1 * gradient
    moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
    return -0.01 * moments[0] / (1 - 0.9**turn) / (np.sqrt(moments[1] / (1 - 0.999**turn)) + 1e-8)


def loop_round(log, point, maps, weights, own, objective, number):  # type: ignore[no-untyped-def]
    """A round of the defaults with a Python loop over clients."""
    clients = [LoopClient(i, log, objective) for i in range(len(log.counts))]
    ends, scales = [], []
    for i, client in enumerate(clients):
        x, moments = point.numpy(), [np.zeros(len(point)), np.zeros(len(point))]
        client.query(x)
        scales.append(client.choose(x))
        for turn in range(1, SETTINGS.local_steps + 1):
            points, matrix, values, span = client.fit(x, scales[i])
            gradient = span * client.jacobian(x, points, scales[i]).T @ np.linalg.solve(matrix, values)
            gradient += (feature_gradient(maps, x, weights.numpy()) - feature_gradient(maps, x, own[i].numpy())) / turn
            x = np.clip(x + adam(moments, gradient, turn), 0, 1)
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
        fitted.append(span * feature_weights(maps, points, values, SETTINGS.feature_ridge))
    return torch.from_numpy(np.array(ends)), torch.from_numpy(np.array(fitted)), None


class ProgramClient(LoopClient):
    """One client of the authors' program."""

    def gradient(self, centre: np.ndarray) -> np.ndarray:
        """Gradient of a process that is fitted anew, length scale included."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern

        points, values, span = self.window(centre, PROGRAM.window or len(self.points))
        process = GaussianProcessRegressor(Matern(nu=2.5), alpha=PROGRAM.ridge, n_restarts_optimizer=20, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # length scales at the edge of their range
            process.fit(points, values)
        difference, scale = centre - points, process.kernel_.length_scale
        radius = np.sqrt(5 * (difference**2).sum(1)) / scale
        slopes = -5 / (3 * scale**2) * (1 + radius) * np.exp(-radius)
        return span * (slopes * process.alpha_) @ difference

    def rank(self, centre: np.ndarray, drawn: np.ndarray, count: int) -> None:
        """Query the candidates of largest variance of the first partial derivative."""
        points, matrix, _, _ = self.fit(centre, 1.0)
        squared = ((drawn[:, None] - points) ** 2).sum(-1)
        rows = -(drawn[:, None, 0] - points[None, :, 0]) * np.exp(-squared / 2)
        variances = 1 - np.einsum("cn,nc->c", rows, np.linalg.solve(matrix, rows.T))
        for best in np.argsort(variances)[-count:]:
            self.query(drawn[best])


def program_round(log, point, maps, weights, own, objective, number):  # type: ignore[no-untyped-def]
    """A round of the authors' program."""
    clients = [ProgramClient(i, log, objective) for i in range(len(log.counts))]
    ends = []
    for i, client in enumerate(clients):
        x, moments = point.numpy(), [np.zeros(len(point)), np.zeros(len(point))]
        client.query(x)
        for turn in range(1, PROGRAM.local_steps + 1):
            gradient = client.gradient(x)
            gradient += (feature_gradient(maps, x, weights.numpy()) - feature_gradient(maps, x, own[i].numpy())) / turn
            x = x + adam(moments, gradient, turn)
            client.query(x)
            if turn < PROGRAM.local_steps:
                drawn = candidates(i, number, 1 + turn, x, PROGRAM.candidates, PROGRAM.box)
                client.rank(x, drawn, PROGRAM.active_queries)
        ends.append(x)
    new, fitted = np.mean(ends, 0), []
    for i, client in enumerate(clients):
        client.query(new)
        drawn = candidates(i, number, 1, new, PROGRAM.global_candidates, 0.5 * float(np.abs(new - ends[i]).mean()))
        client.rank(new, drawn, PROGRAM.global_active_queries)
        points, values, span = client.window(new, PROGRAM.feature_window or len(client.points))
        fitted.append(span * feature_weights(maps, points, values, PROGRAM.feature_ridge))
    return torch.from_numpy(np.array(ends)), torch.from_numpy(np.array(fitted)), None
