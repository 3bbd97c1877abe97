"""The devices of one run on the clock: durations as ticks, losses, availability."""

from __future__ import annotations

from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np

from fedopt.devices.base import Fleet, Seconds
from fedopt.rng import generator
from fedopt.types import Ticks

TICKS_PER_SECOND = 10**9


class DeviceClock:
    """Devices bound to one fleet.

    Args:
        devices: the scenario's ``devices`` section.
        fleet: the population.
    """

    def __init__(self, devices: Any, fleet: Fleet):
        self.devices, self.fleet = devices, fleet
        self.num_clients = fleet.num_clients
        # Exact multiples of the model's own unit, so that equal times are equal and ceilings are exact.
        self.ticks_per_second = lcm(TICKS_PER_SECOND, devices.compute.denominator(fleet.num_clients))
        self.compute = devices.compute.bind(fleet)
        self.network = devices.network.bind(fleet)
        self.presence = devices.availability.bind(fleet)
        self.work = devices.work.bind(fleet) if hasattr(devices.work, "bind") else devices.work

    def ticks(self, seconds: Seconds) -> Ticks:
        """Nearest tick, the even one of two: ``round(Fraction(seconds) * ticks_per_second)`` without its overhead."""
        exact = seconds if isinstance(seconds, Fraction) else float(seconds)
        numerator, denominator = exact.as_integer_ratio()
        whole, rest = divmod(numerator * self.ticks_per_second, denominator)
        return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))

    def seconds(self, time: Ticks) -> Fraction:
        """Exact seconds of a tick."""
        return Fraction(time, self.ticks_per_second)

    def outcome(
        self, now: Ticks, client: int, task: int, steps: int, batch_size: int, downlink: int, uplink: int
    ) -> tuple[Ticks, str | None]:
        """When a dispatch ends, and why it is lost if it is (None: its reply arrives)."""
        down, up = self.network.seconds(client, task, downlink, uplink)
        duration = self.ticks(down) + self.ticks(self.compute.seconds(client, task, steps, batch_size)) + self.ticks(up)
        if self.devices.dropout > 0:
            luck = generator(self.fleet.seed, "dropout", client, task)
            if luck.random() < self.devices.dropout:
                share = 0.0 if self.devices.dropout_phase == "before" else luck.random()
                return now + round(Fraction(share) * duration), "dropped out"
        end = now + duration
        if self.devices.interrupt and not self.presence.available(np.array([client]), self.seconds(end))[0]:
            return end, "went away before its reply was sent"
        return end, None

    def next_change(self, now: Ticks) -> Ticks | None:
        """First tick after ``now`` at which availability may change."""
        change = self.presence.next_change(self.seconds(now))
        return None if change is None else max(now + 1, self.ticks(change))


class ReadyNow:
    """Availability at one instant (a ``Ready``)."""

    def __init__(self, clock: DeviceClock, now: Ticks):
        self.num_clients = clock.num_clients
        self._clock, self._now = clock, now

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        """Clients ``[k]`` -> ``[k]`` bool."""
        return self._clock.presence.available(clients, self._clock.seconds(self._now))
