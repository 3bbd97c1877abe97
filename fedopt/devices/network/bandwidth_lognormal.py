"""Lognormal bandwidths."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt import rng
from fedopt.devices._links import Links
from fedopt.devices._times import client_normals
from fedopt.devices.base import Fleet, NetworkModel, NetworkTimes


class BandwidthLognormal(NetworkModel):
    """Lognormal bandwidths between clients and between the transfers of a client.

    Download and upload rate of a client share one factor: ``rate = median * exp(between_sigma z_i + within_sigma z)``,
    ``z_i`` normal once per client, ``z`` normal for every task. Time is ``latency_s + 8 bytes / (10^6 rate)``, so a
    transfer of B bytes takes ``latency_s + 8 B / (10^6 median) * exp((between_sigma^2 + within_sigma^2) / 2)`` on
    average.

    References: lognormal capacity factors as in FedScale (ICML 2022) and FLGo; the medians are this project's.
    """

    download_mbit_s: float = Field(100.0, gt=0, allow_inf_nan=False, description="median rate to a client, in Mbit/s")
    upload_mbit_s: float = Field(20.0, gt=0, allow_inf_nan=False, description="median rate from a client, in Mbit/s")
    between_sigma: float = Field(
        0.6, ge=0, allow_inf_nan=False, description="standard deviation of the log rate between clients"
    )
    within_sigma: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="standard deviation of the log rate between tasks of a client"
    )
    latency_s: float = Field(0.0, ge=0, allow_inf_nan=False, description="added to each transfer, in seconds")

    def bind(self, fleet: Fleet) -> NetworkTimes:
        """Links of this fleet."""
        factors = np.exp(self.between_sigma * client_normals(fleet, "network-rates"))

        def mbit_s(client: int, task: int) -> tuple[float, float]:
            factor = float(factors[client])
            if self.within_sigma > 0:
                normal = rng.generator(fleet.seed, "network", client, task).standard_normal()
                factor *= float(np.exp(self.within_sigma * normal))
            return self.download_mbit_s * factor, self.upload_mbit_s * factor

        return Links(mbit_s, self.latency_s)
