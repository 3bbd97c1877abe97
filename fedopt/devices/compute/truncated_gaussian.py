"""Gaussian durations cut off below."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from fedopt.devices._times import DrawnTimes
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet, PrivateFact


class TruncatedGaussian(ComputeModel):
    """Gaussian task times raised to a minimum: T = max(minimum_s, N(mean_s, sd_s^2)), per client or per example.

    With ``per: example`` the draw is multiplied by the client's number of examples n_i. With
    ``z = (minimum_s - mean_s) / sd_s``: ``E[T] = minimum_s Phi(z) + mean_s (1 - Phi(z)) + sd_s phi(z)``.

    References: FLSim (facebookresearch/FLSim), Gaussian training-time distribution.
    """

    mean_s: float = Field(1.0, allow_inf_nan=False, description="mean of the normal before the cut, in seconds")
    sd_s: float = Field(0.3, gt=0, allow_inf_nan=False, description="standard deviation of the normal, in seconds")
    minimum_s: float = Field(0.01, ge=0, allow_inf_nan=False, description="smaller draws become this, in seconds")
    per: Literal["client", "example"] = Field(
        "client", description="whether the draw is the task's time or the time of each of the client's examples"
    )

    def mean(self) -> float:
        """Mean of one draw, in seconds."""
        z = (self.minimum_s - self.mean_s) / self.sd_s
        below = 0.5 * math.erfc(-z / math.sqrt(2))
        density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return self.minimum_s * below + self.mean_s * (1 - below) + self.sd_s * density

    def reads(self) -> tuple[PrivateFact, ...]:
        """The number of examples, where the time is that of each of them."""
        return ("num_examples",) if self.per == "example" else ()

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Draws for this fleet."""

        def factor(client: int) -> float:
            return float(fleet.num_examples[client]) if self.per == "example" else 1.0

        mean = self.mean()
        return DrawnTimes(
            fleet,
            lambda stream, client, *_: factor(client) * max(self.minimum_s, stream.normal(self.mean_s, self.sd_s)),
            lambda client, *_: factor(client) * mean,
        )
