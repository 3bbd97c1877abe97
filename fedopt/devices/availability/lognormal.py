"""Lognormal probabilities of being there."""

from __future__ import annotations

from pydantic import Field

from fedopt.devices._lognormal_shares import lognormal_shares
from fedopt.devices._windows import independent_windows
from fedopt.devices.base import AvailabilityModel, Fleet, Presence


class Lognormal(AvailabilityModel):
    """Each client has its own probability of being there, lognormal and scaled to a largest of 1 (FLGo mode LN).

    ``c_i ~ LogNormal(0, sigma)`` with standard deviation of the log ``sigma = -ln(1 - spread)``; ``p_i = c_i / max c``.
    Independent draws per window.

    References: FLGo (WwZzz/easyFL, branch FLGo), availability LN with beta = 0.1; its window is one round.
    """

    spread: float = Field(0.1, ge=0, lt=1, description="beta: 0 = everybody always there, near 1 = most nearly never")
    window_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="length of a window, in seconds")

    def bind(self, fleet: Fleet) -> Presence:
        """Probabilities of this fleet."""
        shares = lognormal_shares(fleet, self.spread)
        return independent_windows(fleet, self.window_s, lambda window: shares)
