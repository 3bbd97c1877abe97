"""Devices: who is there, and how long things take. All times are virtual seconds; the simulator makes ticks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from fedopt.components import Settings

Seconds = float | Fraction
PrivateFact = Literal["num_examples", "labels"]


@dataclass(frozen=True)
class Fleet:
    """What a device model may depend on; never on model values.

    Args:
        seed: run seed; draw only from ``rng.generator(seed, purpose, client, task)``.
        num_clients: population size.
        num_examples: n_i ``[num_clients]``.
        classes: lowest and highest class label each client holds ``[num_clients, 2]`` and how many distinct ones
            ``[num_clients]``, for availability that depends on labels; None for regression.
    """

    seed: int
    num_clients: int
    num_examples: np.ndarray
    classes: tuple[np.ndarray, np.ndarray] | None = None


class ComputeTimes(Protocol):
    """Durations of local work."""

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Compute time of the client's task-th task. Same arguments, same answer."""
        ...

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds] | None:
        """E[T_i] for every client (exact Fractions for fixed times), or None if unknown."""
        ...


class ComputeModel(Settings):
    """Base of compute-time models (``devices.compute``)."""

    def denominator(self, num_clients: int) -> int:
        """Times are exact multiples of 1/denominator seconds; 1 when durations are continuous."""
        return 1

    def reads(self) -> tuple[PrivateFact, ...]:
        """Facts of clients' data that decide besides the work asked for; under privacy they must be public."""
        return ()

    @abstractmethod
    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Durations for one fleet."""


class NetworkTimes(Protocol):
    """Transfer durations."""

    def seconds(self, client: int, task: int, downlink_bytes: int, uplink_bytes: int) -> tuple[Seconds, Seconds]:
        """(download, upload) time of the client's task-th task."""
        ...


class NetworkModel(Settings):
    """Base of network models (``devices.network``)."""

    @abstractmethod
    def bind(self, fleet: Fleet) -> NetworkTimes:
        """Transfer times for one fleet."""


class Presence(Protocol):
    """Who can be asked when."""

    def available(self, clients: np.ndarray, time: Seconds) -> np.ndarray:
        """Which of these clients ``[k]`` int64 are available at ``time`` seconds -> ``[k]`` bool."""
        ...

    def next_change(self, time: Seconds) -> Seconds | None:
        """The next time (> ``time``) at which anybody's availability may change; None if it never does."""
        ...


class AvailabilityModel(Settings):
    """Base of availability models (``devices.availability``)."""

    def reads(self) -> tuple[PrivateFact, ...]:
        """Facts of clients' data that decide who is there; under privacy they must be public."""
        return ()

    @abstractmethod
    def bind(self, fleet: Fleet) -> Presence:
        """Availability for one fleet."""


class LocalWork(Protocol):
    """How much of the planned work is done."""

    def steps(self, client: int, task: int, planned: int) -> int:
        """Local steps the client really takes in its task-th task when ``planned`` were asked: at least 1."""
        ...


class WorkModel(Settings):
    """Base of work modes (``devices.work``)."""

    @abstractmethod
    def bind(self, fleet: Fleet) -> LocalWork:
        """Work for one fleet."""
