"""Shared parts of compute-time models: exact numbers, fixed times, times drawn per task, draws per client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from fedopt import rng
from fedopt.devices.base import Fleet, Seconds


def exact(value: float | str | Fraction) -> Fraction:
    """The decimal (or ratio) as it was written, as an exact fraction: 0.1 is 1/10, not the nearest double.

    >>> exact(0.1), exact("1/3"), exact(1e-5)
    (Fraction(1, 10), Fraction(1, 3), Fraction(1, 100000))
    """
    return Fraction(str(value))


def common_denominator(values: Iterable[Fraction]) -> int:
    """Smallest d such that every value is a multiple of 1/d.

    >>> common_denominator([Fraction(1, 4), Fraction(5, 6)])
    12
    """
    return math.lcm(1, *(value.denominator for value in values))


def scaled(time: Seconds, factor: float) -> Seconds:
    """A time multiplied by a factor; exact if the time is.

    >>> scaled(Fraction(1, 10), 2.5), scaled(0.5, 2.5)
    (Fraction(1, 4), 1.25)
    """
    return time * exact(factor) if isinstance(time, Fraction) else float(time) * factor


def client_normals(fleet: Fleet, purpose: str) -> np.ndarray:
    """One standard normal per client ``[num_clients]``; a client's draw does not depend on how many follow it."""
    return rng.generator(fleet.seed, purpose).standard_normal(fleet.num_clients)


def client_uniforms(fleet: Fleet, purpose: str) -> np.ndarray:
    """One uniform number of [0, 1) per client ``[num_clients]``."""
    return rng.generator(fleet.seed, purpose).random(fleet.num_clients)


@dataclass(frozen=True)
class FixedTimes:
    """Durations that never change: ``time_of(client)``, per task or per local step.

    Args:
        num_clients: population size.
        time_of: exact seconds of one client.
        per: whether that is the time of a whole task or of one local step.
    """

    num_clients: int
    time_of: Callable[[int], Fraction]
    per: Literal["task", "step"] = "task"

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Time of the client's every task."""
        return self.time_of(client) * (int(local_steps) if self.per == "step" else 1)

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds]:
        """The times themselves, exact."""
        return [self.seconds(client, 0, local_steps[client], batch_size) for client in range(self.num_clients)]


class NoQuantiles(Exception):
    """A time is made of several random numbers, so strata of one of them do not describe it."""


class _Stratum:
    """Stands for a random generator whose one draw has the given probability below it."""

    def __init__(self, probability: float):
        self._probability: float | None = probability

    def random(self) -> float:
        """The probability itself.

        Raises:
            NoQuantiles: asked twice.
        """
        found, self._probability = self._probability, None
        if found is None:
            raise NoQuantiles
        return found

    def standard_exponential(self) -> float:
        """Quantile of the exponential of mean 1."""
        return -math.log1p(-self.random())

    def standard_normal(self) -> float:
        """Quantile of the standard normal."""
        return NormalDist().inv_cdf(self.random())

    def normal(self, mean: float, deviation: float) -> float:
        """Quantile of a normal."""
        return mean + deviation * self.standard_normal()


@dataclass(frozen=True)
class DrawnTimes:
    """Durations drawn anew for every task from the stream (seed, "compute", client, task).

    Args:
        fleet: the fleet.
        draw: ``(generator, client, local_steps, batch_size) -> seconds``.
        mean: ``(client, local_steps, batch_size) -> E[seconds]``.
        expected_ceil: ``(period, client) -> E[ceil(seconds / period)]`` in closed form, or None where there is none.
    """

    fleet: Fleet
    draw: Callable[[np.random.Generator, int, int, int], float]
    mean: Callable[[int, int, int], float]
    expected_ceil: Callable[[float, int], float] | None = None

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Time of the client's task-th task."""
        stream = rng.generator(self.fleet.seed, "compute", client, task)
        return float(self.draw(stream, client, local_steps, batch_size))

    def quantiles(self, client: int, local_steps: int, batch_size: int, count: int) -> list[float] | None:
        """Times at the middles of ``count`` equally likely strata, for expectations that are not the mean's.

        None if a time is made of several random numbers.
        """
        strata: list[Any] = [_Stratum((k + 0.5) / count) for k in range(count)]
        try:
            return [float(self.draw(stratum, client, local_steps, batch_size)) for stratum in strata]
        except NoQuantiles:
            return None

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds]:
        """Mean time of every client."""
        return [float(self.mean(i, local_steps[i], batch_size)) for i in range(self.fleet.num_clients)]
