"""The same probability for everybody."""

from __future__ import annotations

from pydantic import Field

from fedopt.devices._windows import independent_windows
from fedopt.devices.base import AvailabilityModel, Fleet, Presence


class Bernoulli(AvailabilityModel):
    """In every window each client is there with probability 1 - missing, independently (FLGo mode HOMO).

    References: FLGo (WwZzz/easyFL, branch FLGo), availability HOMO with beta = 0.2; its window is one round.
    """

    missing: float = Field(0.2, ge=0, lt=1, description="beta: probability that a client is away in a window")
    window_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="length of a window, in seconds")

    def bind(self, fleet: Fleet) -> Presence:
        """Draws for this fleet."""
        return independent_windows(fleet, self.window_s, lambda window: 1 - self.missing)
