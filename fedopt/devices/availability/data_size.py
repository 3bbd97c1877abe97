"""Availability that depends on how much data a client holds."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.devices._windows import independent_windows
from fedopt.devices.base import AvailabilityModel, Fleet, Presence, PrivateFact


class DataSize(AvailabilityModel):
    """Clients with more data are there more often (FLGo mode MDF), or less often (LDF).

    ``p_i = n_i^beta / max_j n_j^beta`` (``more``) or ``n_i^-beta / max_j n_j^-beta`` (``less``), independent per
    window. Clients without data count as having one example. FLGo's comments describe other formulas; these are what
    its code does.

    References: FLGo (WwZzz/easyFL, branch FLGo), MDF with beta = 1e-4, LDF with beta = 0.5; its window is one round.
    """

    favours: Literal["more", "less"] = Field("less", description="whether more or less data makes a client available")
    beta: float = Field(0.5, ge=0, allow_inf_nan=False, description="exponent; 0 = everybody always there")
    window_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="length of a window, in seconds")

    def reads(self) -> tuple[PrivateFact, ...]:
        """Everybody's number of examples."""
        return ("num_examples",)

    def bind(self, fleet: Fleet) -> Presence:
        """Probabilities of this fleet."""
        sizes = np.maximum(1, fleet.num_examples).astype(float)
        reference = sizes.max() if self.favours == "more" else sizes.min()
        probabilities = (sizes / reference) ** (self.beta if self.favours == "more" else -self.beta)
        return independent_windows(fleet, self.window_s, lambda window: probabilities)
