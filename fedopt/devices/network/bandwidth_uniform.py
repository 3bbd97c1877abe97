"""Uniform bandwidths, one per client."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedopt.devices._links import Links
from fedopt.devices._times import client_uniforms
from fedopt.devices.base import Fleet, NetworkModel, NetworkTimes

RANGES_MBIT_S = {"wifi": (150.0, 600.0), "4g": (20.0, 100.0), "5g": (50.0, 1000.0)}


class BandwidthUniform(NetworkModel):
    """Uniform bandwidths, one draw per client: Wi-Fi 150-600, 4G 20-100, 5G 50-1000 Mbit/s, or a range of your own.

    ``rate_i ~ U[low, high)`` for both directions; time ``latency_s + 8 bytes / (10^6 rate_i)``. A transfer of B bytes
    takes ``latency_s + 8 B ln(high / low) / (10^6 (high - low))`` on average over the clients.

    References: AFL-Lib (boyi-liu/AFL-Lib), ranges as read in third-party code.
    """

    technology: Literal["wifi", "4g", "5g", "custom"] = Field("wifi", description="named range, or custom")
    low_mbit_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="smallest rate in Mbit/s, for technology custom only"
    )
    high_mbit_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="largest rate in Mbit/s, for technology custom only"
    )
    latency_s: float = Field(0.0, ge=0, allow_inf_nan=False, description="added to each transfer, in seconds")

    @model_validator(mode="after")
    def _range(self) -> BandwidthUniform:
        bounds = (self.low_mbit_s, self.high_mbit_s)
        if self.technology != "custom":
            if bounds != (None, None):
                raise ValueError(f"low_mbit_s and high_mbit_s need technology: custom, got {self.technology}")
        elif self.low_mbit_s is None or self.high_mbit_s is None or self.low_mbit_s > self.high_mbit_s:
            raise ValueError(f"technology: custom needs low_mbit_s <= high_mbit_s, got {bounds[0]} and {bounds[1]}")
        return self

    def range_mbit_s(self) -> tuple[float, float]:
        """(low, high) in Mbit/s."""
        if self.low_mbit_s is None or self.high_mbit_s is None:
            return RANGES_MBIT_S[self.technology]
        return self.low_mbit_s, self.high_mbit_s

    def bind(self, fleet: Fleet) -> NetworkTimes:
        """Links of this fleet."""
        low, high = self.range_mbit_s()
        rates = low + (high - low) * client_uniforms(fleet, "network-rates")
        return Links(lambda client, task: (float(rates[client]), float(rates[client])), self.latency_s)
