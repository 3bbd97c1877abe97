"""Lognormal speeds or latencies, one per client."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.devices._times import DrawnTimes, FixedTimes, client_normals
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class Lognormal(ComputeModel):
    """Lognormal between clients: FedScale's speed times work, or FLGo's fixed latency; one draw per client.

    * ``form: fedscale_speed``: ``s_i = max(1e-4, LogNormal(log_mean, log_sigma^2))``,
      ``T_i = s_i * seconds_per_example * batch_size * local_steps``.
    * ``form: flgo_latency``: ``T_i = int(LogNormal(mu, sigma^2))`` whole seconds, with
      ``mu = ln m - 0.5 ln(1 + v / m^2)``, ``sigma^2 = ln(1 + v / m^2)``, so that m and v are mean and variance before
      truncation.

    References: FedScale (Lai et al., ICML 2022) with log_mean 1, log_sigma 0.6, 0.005 s; FLGo mode LN with m = 100,
    v = 10.
    """

    form: Literal["fedscale_speed", "flgo_latency"] = Field(
        "fedscale_speed", description="speed times work (FedScale), or a fixed latency per client (FLGo)"
    )
    log_mean: float = Field(1.0, allow_inf_nan=False, description="fedscale_speed: mean of the log speed factor")
    log_sigma: float = Field(
        0.6, ge=0, allow_inf_nan=False, description="fedscale_speed: standard deviation of the log speed factor"
    )
    seconds_per_example: float = Field(
        0.005, gt=0, allow_inf_nan=False, description="fedscale_speed: seconds per example at speed factor 1"
    )
    mean_s: float = Field(100.0, gt=0, allow_inf_nan=False, description="flgo_latency: mean m, in seconds")
    variance_s2: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="flgo_latency: variance v, in seconds squared"
    )

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Speeds or latencies of this fleet."""
        normals = client_normals(fleet, "compute-speeds")
        if self.form == "flgo_latency":
            spread = math.log1p(self.variance_s2 / self.mean_s**2)
            latencies = np.exp(math.log(self.mean_s) - 0.5 * spread + math.sqrt(spread) * normals)
            return FixedTimes(fleet.num_clients, lambda client: Fraction(int(latencies[client])))
        factors = np.maximum(1e-4, np.exp(self.log_mean + self.log_sigma * normals)) * self.seconds_per_example
        return DrawnTimes(
            fleet,
            lambda stream, client, steps, batch: factors[client] * steps * batch,
            lambda client, steps, batch: factors[client] * steps * batch,
        )
