"""A daily rhythm."""

from __future__ import annotations

import math

from pydantic import Field

from fedopt.devices._lognormal_shares import lognormal_shares
from fedopt.devices._windows import independent_windows
from fedopt.devices.base import AvailabilityModel, Fleet, Presence

HOURS = 24


class Diurnal(AvailabilityModel):
    """A sine over the day, times a lognormal share per client (FLGo mode SLN).

    ``p_i(h) = q_i (0.4 sin(2 pi (h mod 24) / 23) + 0.5)`` in hour h, ``q_i`` as in ``lognormal``: the sine is sampled
    at 24 equally spaced points that include both ends. Independent draws per hour; the same hour for all clients.

    References: FLGo (WwZzz/easyFL, branch FLGo), availability SLN with beta = 0.1; its hour is one round.
    """

    spread: float = Field(0.1, ge=0, lt=1, description="beta: spread of the clients' shares; 0 = all alike")
    hour_s: float = Field(3600.0, gt=0, allow_inf_nan=False, description="length of an hour of the rhythm, in seconds")

    def bind(self, fleet: Fleet) -> Presence:
        """Probabilities of this fleet."""
        shares = lognormal_shares(fleet, self.spread)
        return independent_windows(fleet, self.hour_s, lambda hour: shares * level(hour))


def level(hour: int) -> float:
    """Probability of a client with share 1 in this hour.

    >>> level(0), round(level(6), 4), round(level(17), 4)
    (0.5, 0.8991, 0.1009)
    """
    return 0.4 * math.sin(2 * math.pi * (hour % HOURS) / (HOURS - 1)) + 0.5
