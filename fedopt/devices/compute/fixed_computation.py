"""Fixed computation model of asynchronous-SGD theory."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.devices._times import DrawnTimes, client_normals
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class FixedComputation(ComputeModel):
    """Worker i needs tau_i per gradient: i, sqrt(i), or i + |N(0, i)| with i = 1..M, the usual tests of async theory.

    ``T_i = unit_s * tau_i * local_steps``; the random law draws once per client with variance i.

    The parameters are those customary in the theory papers and were not confirmed in a particular one.
    """

    law: Literal["linear", "sqrt", "linear_half_normal"] = Field(
        "linear", description="tau_i = i, sqrt(i), or i + |N(0, variance i)|, for i = 1..M"
    )
    unit_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="seconds per unit of tau")

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Times of this fleet."""
        noise = (
            client_normals(fleet, "compute-speeds") if self.law == "linear_half_normal" else np.zeros(fleet.num_clients)
        )

        def time_of(client: int, steps: int) -> float:
            rank = int(client) + 1
            tau = math.sqrt(rank) if self.law == "sqrt" else rank + math.sqrt(rank) * abs(noise[client])
            return self.unit_s * tau * steps

        return DrawnTimes(
            fleet,
            lambda stream, client, steps, _: time_of(client, steps),
            lambda client, steps, _: time_of(client, steps),
        )
