"""Half-normal durations."""

from __future__ import annotations

import math

from pydantic import Field

from fedopt.devices._times import DrawnTimes
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class HalfNormal(ComputeModel):
    """Half-normal task times: T = minimum_s + |N(0, scale^2)|, drawn anew for every task.

    ``E[T] = minimum_s + 0.79788 scale``, ``Var[T] = 0.36338 scale^2``; independent of the client and of its data.

    References: Nguyen et al. 2022, Federated Learning with Buffered Asynchronous Aggregation (FedBuff),
    arXiv:2106.06639; scale 1 and minimum 0 are the values shipped with FLSim.
    """

    scale: float = Field(1.0, gt=0, allow_inf_nan=False, description="standard deviation of the normal, in seconds")
    minimum_s: float = Field(0.0, ge=0, allow_inf_nan=False, description="shortest possible time, in seconds")

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Draws for this fleet."""
        mean = self.minimum_s + self.scale * math.sqrt(2 / math.pi)
        return DrawnTimes(
            fleet,
            lambda stream, *_: self.minimum_s + self.scale * abs(stream.standard_normal()),
            lambda *_: mean,
        )
