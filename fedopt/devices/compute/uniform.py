"""Uniform durations."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from fedopt.devices._times import DrawnTimes, FixedTimes, client_uniforms
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class Uniform(ComputeModel):
    """Uniform times: U[minimum_s, maximum_s] for every task, or a whole number of seconds once per client.

    * ``form: per_task``: ``T ~ U[minimum_s, maximum_s)``, mean in the middle; FLSim's ``U[T_min, 2 mean - T_min]``.
    * ``form: flgo_latency``: ``T_i`` an integer of ``{minimum_s, .., maximum_s - 1}``, one draw per client (FLGo
      ``UNI``); both bounds must be whole numbers.

    References: FLSim (facebookresearch/FLSim); FLGo (WwZzz/easyFL, branch FLGo).
    """

    minimum_s: float = Field(0.5, ge=0, allow_inf_nan=False, description="smallest time, in seconds")
    maximum_s: float = Field(1.5, gt=0, allow_inf_nan=False, description="largest time (not included), in seconds")
    form: Literal["per_task", "flgo_latency"] = Field(
        "per_task", description="continuous and drawn per task (FLSim), or whole seconds drawn once per client (FLGo)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.maximum_s <= self.minimum_s:
            raise ValueError(f"maximum_s must be > minimum_s = {self.minimum_s}, got {self.maximum_s}")
        if self.form == "flgo_latency" and not (self.minimum_s.is_integer() and self.maximum_s.is_integer()):
            raise ValueError(
                f"form flgo_latency needs whole seconds, got {self.minimum_s} and {self.maximum_s}; use form: per_task"
            )
        return self

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Draws for this fleet."""
        width = self.maximum_s - self.minimum_s
        if self.form == "flgo_latency":
            ticks = np.floor(self.minimum_s + width * client_uniforms(fleet, "compute-speeds"))
            return FixedTimes(fleet.num_clients, lambda client: Fraction(int(ticks[client])))
        return DrawnTimes(
            fleet,
            lambda stream, *_: self.minimum_s + width * stream.random(),
            lambda *_: self.minimum_s + width / 2,
        )
