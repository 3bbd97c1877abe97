"""Exponential durations, optionally with a random rate per client."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from fedopt.devices._times import DrawnTimes, client_normals
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class Exponential(ComputeModel):
    """Exponential task times: T ~ Exp(mean), with a lognormal spread of the rates between clients if asked.

    ``T = mean_s * E / lambda_i``, ``E ~ Exp(1)`` for every task, ``lambda_i ~ LogNormal(0, rate_sigma^2)`` once per
    client, so ``E[T_i] = mean_s / lambda_i``.

    References: FLSim (exponential with rate 1/mean); the random rates are those of the AREA code (arXiv:2405.10123),
    whose default is ``rate_sigma = 0.1``, as read in third-party notes; larger values mean stronger heterogeneity.
    """

    mean_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="mean time of a client with rate 1, in seconds")
    rate_sigma: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="standard deviation of the clients' log rates; 0 = all alike"
    )

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Draws for this fleet."""
        means = np.broadcast_to(self.mean_s, fleet.num_clients)
        if self.rate_sigma > 0:
            means = self.mean_s / np.exp(self.rate_sigma * client_normals(fleet, "compute-rates"))
        return DrawnTimes(
            fleet,
            lambda stream, client, *_: means[client] * stream.standard_exponential(),
            lambda client, *_: means[client],
            lambda period, client: -1 / math.expm1(-period / float(means[client])),
        )
