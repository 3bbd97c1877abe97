"""Clients that come and go."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from fedopt import rng
from fedopt.devices._two_state import states_at
from fedopt.devices._windows import WindowedPresence
from fedopt.devices.base import AvailabilityModel, Fleet, Presence


class Markov(AvailabilityModel):
    """Each client alternates between being there and away, with random stays of given mean (two-state Markov chain).

    The state is constant within a window of w seconds; long-run share of being there ``on / (on + off)`` for mean
    stays on and off, also at the start.

    * ``stays: geometric``: ``P(there -> away) = w / on``, ``P(away -> there) = w / off`` per window, so a stay lasts
      whole windows with exactly the given mean;
    * ``stays: exponential``: the continuous chain with exponential stays, looked at once per window:
      ``P(there -> away) = (1 - share) (1 - exp(-w (1 / on + 1 / off)))``. Comings and goings within a window are not
      seen.

    Availability at a time depends on (seed, window) alone; looking it up does not simulate the past.
    """

    mean_on_s: float = Field(300.0, gt=0, allow_inf_nan=False, description="mean stay, in seconds")
    mean_off_s: float = Field(300.0, gt=0, allow_inf_nan=False, description="mean absence, in seconds")
    window_s: float = Field(30.0, gt=0, allow_inf_nan=False, description="length of a window, in seconds")
    stays: Literal["geometric", "exponential"] = Field("geometric", description="law of the stays")

    @model_validator(mode="after")
    def _short_windows(self) -> Markov:
        shortest = min(self.mean_on_s, self.mean_off_s)
        if self.stays == "geometric" and self.window_s >= shortest:
            raise ValueError(f"window_s must be < the shorter mean stay {shortest} s, got {self.window_s}")
        return self

    def leave_and_come(self) -> tuple[float, float]:
        """(P(there -> away), P(away -> there)) per window."""
        if self.stays == "geometric":
            return self.window_s / self.mean_on_s, self.window_s / self.mean_off_s
        renewed = -math.expm1(-self.window_s * (1 / self.mean_on_s + 1 / self.mean_off_s))
        share = self.mean_on_s / (self.mean_on_s + self.mean_off_s)
        return renewed * (1 - share), renewed * share

    def bind(self, fleet: Fleet) -> Presence:
        """Chains of this fleet."""
        leave, come = self.leave_and_come()
        known: list[tuple[int, np.ndarray]] = []  # the last answer; only a cache

        def uniforms(window: int) -> np.ndarray:
            return rng.generator(fleet.seed, "availability", window).random(fleet.num_clients)

        def states(window: int) -> np.ndarray:
            found = states_at(uniforms, window, come, leave, known[0] if known else None)
            known[:] = [(window, found)]
            return found

        return WindowedPresence(self.window_s, states)
