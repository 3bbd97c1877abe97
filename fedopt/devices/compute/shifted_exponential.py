"""Shifted exponential durations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedopt.devices._times import DrawnTimes
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class ShiftedExponential(ComputeModel):
    """Shifted exponential task times: T = load * (shift + E / rate), the standard law of coded computing.

    ``P(T <= t) = 1 - exp(-rate (t / load - shift))`` for ``t >= shift * load``; ``E[T] = load (shift + 1 / rate)``. The
    k-th fastest of n has mean ``load [shift + (H_n - H_{n-k}) / rate]``, H the harmonic numbers.

    The load is constant, or proportional to the local steps or to the examples processed.
    """

    shift: float = Field(1.0, ge=0, allow_inf_nan=False, description="a: shortest time of a unit load, in seconds")
    rate: float = Field(1.0, gt=0, allow_inf_nan=False, description="mu: rate of the random part, per second")
    load: float = Field(1.0, gt=0, allow_inf_nan=False, description="amount of work per unit of load_per")
    load_per: Literal["task", "step", "example"] = Field(
        "task", description="whether load is that of a task, of a local step, or of an example of a mini-batch"
    )

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Draws for this fleet."""

        def load(local_steps: int, batch_size: int) -> float:
            return self.load * {"task": 1, "step": local_steps, "example": local_steps * batch_size}[self.load_per]

        return DrawnTimes(
            fleet,
            lambda stream, client, steps, batch: (
                load(steps, batch) * (self.shift + stream.standard_exponential() / self.rate)
            ),
            lambda client, steps, batch: load(steps, batch) * (self.shift + 1 / self.rate),
        )
