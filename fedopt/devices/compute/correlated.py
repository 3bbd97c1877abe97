"""Correlation between data size and speed, around another compute model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from fedopt.components import KindOf
from fedopt.devices._times import client_normals, client_uniforms
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet, PrivateFact, Seconds


class Correlated(ComputeModel):
    """Hands the devices of another compute model to clients so that data size and time correlate.

    The devices of ``base`` are ordered by their expected time for equal work. Client i gets the score
    ``r g_i + sqrt(1 - r^2) e_i``, with ``g_i`` the normal score of the rank of n_i (ties in random order), ``e_i``
    normal and ``r = 2 sin(pi rank_correlation / 6)``, and the device whose rank is that of the score. So the Spearman
    correlation of n_i and E[T_i] is ``rank_correlation`` on average, exact at 1 (most data, slowest device) and -1.

    Raises (when bound):
        ValueError: all devices of ``base`` are alike, or it does not know its expected times.

    References: the Gaussian-copula identity of Spearman's rho (Pearson 1907); used to expose speed bias.
    """

    base: Annotated[ComputeModel, KindOf("fedopt.devices.compute")] = Field(
        {"kind": "ladder"}, validate_default=True, description="compute model whose devices differ between clients"
    )
    rank_correlation: float = Field(
        1.0,
        ge=-1,
        le=1,
        description="Spearman correlation of number of examples and time; 1: most data, slowest device",
    )

    def denominator(self, num_clients: int) -> int:
        """That of the base model."""
        return self.base.denominator(num_clients)

    def reads(self) -> tuple[PrivateFact, ...]:
        """Numbers of examples, which rank the clients, and what the base reads."""
        own: tuple[PrivateFact, ...] = ("num_examples",) if self.rank_correlation else ()
        return (*own, *self.base.reads())

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Devices handed out in this fleet."""
        base = self.base.bind(fleet)
        times = base.expected([1] * fleet.num_clients, 1)
        if times is None or (fleet.num_clients > 1 and min(times) == max(times)):
            raise ValueError(
                "devices.compute.correlated needs a base whose clients differ in expected time; "
                f"{self.base.kind()} does not. Use ladder, device_classes, work, lognormal, "
                "or exponential with rate_sigma > 0"
            )
        return _Dealt(base, self._devices(fleet, times))

    def _devices(self, fleet: Fleet, times: Sequence[Seconds]) -> np.ndarray:
        from scipy.special import ndtri

        count = fleet.num_clients
        r = 2 * math.sin(math.pi * self.rank_correlation / 6)
        ranks = np.argsort(np.lexsort((client_uniforms(fleet, "correlated-ties"), fleet.num_examples)))
        scores = r * ndtri((ranks + 0.5) / count)
        scores += math.sqrt(max(0.0, 1 - r * r)) * client_normals(fleet, "correlated-scores")
        by_time = np.array(sorted(range(count), key=lambda device: times[device]))
        devices = np.empty(count, dtype=np.int64)
        devices[np.argsort(scores, kind="stable")] = by_time
        return devices


class _Dealt:
    def __init__(self, base: ComputeTimes, devices: np.ndarray):
        self._base, self._devices = base, devices

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Time of the device the client was given."""
        return self._base.seconds(int(self._devices[client]), task, local_steps, batch_size)

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds] | None:
        """Expected times of the devices the clients were given."""
        steps_of_device = np.empty(len(self._devices), dtype=np.int64)
        steps_of_device[self._devices] = local_steps
        times = self._base.expected([int(steps) for steps in steps_of_device], batch_size)
        return None if times is None else [times[device] for device in self._devices]
