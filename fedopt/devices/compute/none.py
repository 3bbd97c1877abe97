"""No compute time."""

from __future__ import annotations

from fractions import Fraction

from fedopt.devices._times import FixedTimes
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class NONE(ComputeModel):
    """Local work takes no time: T_i = 0 (with uploads first, asynchronous schemes become synchronous)."""

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Zero for everybody."""
        return FixedTimes(fleet.num_clients, lambda client: Fraction(0))
