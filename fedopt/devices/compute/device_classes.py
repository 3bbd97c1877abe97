"""A few classes of devices."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from fedopt.devices._times import FixedTimes, client_uniforms, common_denominator, exact
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class DeviceClasses(ComputeModel):
    """Classes of devices with fixed relative times, by default those of a Jetson TX2, a Jetson Nano, a Raspberry Pi.

    ``T_i = fastest_s * relative_times[class_i]``, times ``local_steps`` with ``per: step``; exact. Each client's class
    is drawn once (by default from 1 : 1.8125 : 11.625) with the given proportions, or the classes are dealt in
    contiguous blocks of client ids.

    References: AFL-Lib (boyi-liu/AFL-Lib), relative times as read in third-party code; the equal proportions are ours.
    """

    relative_times: tuple[float, ...] = Field(
        (1.0, 1.8125, 11.625), min_length=1, strict=False, description="time of each class relative to fastest_s, > 0"
    )
    proportions: tuple[float, ...] = Field(
        (1.0, 1.0, 1.0), min_length=1, strict=False, description="share of each class, up to a common factor, >= 0"
    )
    fastest_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="time at relative time 1, in seconds")
    per: Literal["task", "step"] = Field(
        "task", description="whether fastest_s is for a whole task or for a local step"
    )
    assignment: Literal["random", "blocks"] = Field(
        "random", description="draw each client's class, or give the first ids to the first class and so on"
    )

    @model_validator(mode="after")
    def _fitting(self) -> DeviceClasses:
        if len(self.relative_times) != len(self.proportions):
            raise ValueError(
                f"needs one proportion per relative time, got {len(self.proportions)} for {len(self.relative_times)}"
            )
        if not all(0 < time < float("inf") for time in self.relative_times):
            raise ValueError(f"relative_times must be > 0 and finite, got {self.relative_times}")
        if not all(0 <= share < float("inf") for share in self.proportions) or sum(self.proportions) <= 0:
            raise ValueError(f"proportions must be >= 0 with a positive sum, got {self.proportions}")
        return self

    def denominator(self, num_clients: int) -> int:
        """All times are multiples of one over this."""
        return common_denominator(self._times())

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Classes of this fleet."""
        times, classes = self._times(), self.classes(fleet)
        return FixedTimes(fleet.num_clients, lambda client: times[classes[client]], self.per)

    def classes(self, fleet: Fleet) -> np.ndarray:
        """Class of every client ``[num_clients]``."""
        ends = np.cumsum(self.proportions) / sum(self.proportions)
        if self.assignment == "blocks":
            position = (np.arange(fleet.num_clients) + 0.5) / fleet.num_clients
        else:
            position = client_uniforms(fleet, "device-classes")
        return np.minimum(np.searchsorted(ends, position, side="right"), len(ends) - 1)

    def _times(self) -> list[Fraction]:
        return [exact(self.fastest_s) * exact(relative) for relative in self.relative_times]
