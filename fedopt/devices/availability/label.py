"""Availability that depends on the labels a client holds."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.devices._windows import independent_windows
from fedopt.devices.base import AvailabilityModel, Fleet, Presence, PrivateFact

PERIOD = 24


class Label(AvailabilityModel):
    """Clients are there more or less often depending on their class labels: FLGo modes YMF, YFF and YC.

    With C classes (highest label of the fleet + 1), all per window, independent draws:

    * ``lowest`` (YMF): ``p_i = beta * lowest_i / (C - 1) + 1 - beta``;
    * ``count`` (YFF): ``p_i = beta * distinct_i / C + 1 - beta``;
    * ``cycle`` (YC): ``p_i = 1`` while ``lowest_i / m <= (1 + t mod 24) / 24 <= highest_i / m``, else ``1 - beta``,
      with t the window's number and m the highest label of all.

    Raises (when bound):
        ValueError: the task has no classes, or only one.

    References: FLGo (WwZzz/easyFL, branch FLGo), beta = 0.1, 0.2 and 0.5 in this order; its window is one round.
    """

    mode: Literal["lowest", "count", "cycle"] = Field("lowest", description="what decides: YMF, YFF or YC of FLGo")
    beta: float = Field(0.1, ge=0, le=1, description="how strongly labels decide; 0 = everybody always there")
    window_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="length of a window, in seconds")

    def reads(self) -> tuple[PrivateFact, ...]:
        """Everybody's labels."""
        return ("labels",)

    def bind(self, fleet: Fleet) -> Presence:
        """Probabilities of this fleet."""
        if fleet.classes is None:
            raise ValueError("devices.availability.label needs class labels; use bernoulli, lognormal or data_size")
        ranges, distinct = fleet.classes
        lowest, highest = ranges[:, 0], ranges[:, 1]
        top = int(highest.max())
        if top < 1:
            raise ValueError(f"devices.availability.label needs two classes or more, the highest label is {top}")
        if self.mode == "cycle":
            return independent_windows(fleet, self.window_s, lambda window: self._cycle(window, lowest, highest, top))
        share = lowest / top if self.mode == "lowest" else distinct / (top + 1)
        probabilities = self.beta * share + 1 - self.beta
        return independent_windows(fleet, self.window_s, lambda window: probabilities)

    def _cycle(self, window: int, lowest: np.ndarray, highest: np.ndarray, top: int) -> np.ndarray:
        phase = (1 + window % PERIOD) * top  # compared in whole numbers: r * 24 * top
        inside = (PERIOD * lowest <= phase) & (phase <= PERIOD * highest)
        return np.where(inside, 1.0, 1 - self.beta)
