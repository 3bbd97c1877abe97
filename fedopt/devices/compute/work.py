"""Compute speed times work."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.devices._times import DrawnTimes, client_normals
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class Work(ComputeModel):
    """Speed times work: T = overhead + c_i * local_steps * batch_size * xi, lognormal between and within clients.

    ``c_i = seconds_per_example * exp(between_sigma z_i - between_sigma^2 / 2)`` once per client and
    ``xi = exp(within_sigma z - within_sigma^2 / 2)`` for every task, so both have mean one over the population and over
    the tasks. With probability ``tail_probability`` a task's work takes ``tail_factor`` times as long.
    ``E[T_i] = overhead_s + c_i local_steps batch_size (1 + tail_probability (tail_factor - 1))``.

    Add ``devices.network`` for the bytes over the bandwidth. FedScale's compute time, 3 x batch x steps x speed in ms
    per inferred sample, is ``seconds_per_example = 3 * speed / 1000``.

    References: the composite default derived in this project; lognormal speeds as in FedScale (ICML 2022) and FLGo.
    """

    seconds_per_example: float = Field(
        0.001, gt=0, allow_inf_nan=False, description="mean time for one example of a mini-batch, in seconds"
    )
    between_sigma: float = Field(
        0.6, ge=0, allow_inf_nan=False, description="standard deviation of the log speed between clients"
    )
    within_sigma: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="standard deviation of the log time between tasks of a client"
    )
    overhead_s: float = Field(0.0, ge=0, allow_inf_nan=False, description="time added to every task, in seconds")
    tail_probability: float = Field(0.0, ge=0, le=1, description="probability that a task is hit by a slow event")
    tail_factor: float = Field(10.0, ge=1, allow_inf_nan=False, description="how many times longer the work then takes")

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Speeds of this fleet."""
        normals = client_normals(fleet, "compute-speeds")
        costs = self.seconds_per_example * np.exp(self.between_sigma * normals - 0.5 * self.between_sigma**2)
        tail_mean = 1 + self.tail_probability * (self.tail_factor - 1)

        def draw(stream: np.random.Generator, client: int, steps: int, batch: int) -> float:
            noise = np.exp(self.within_sigma * stream.standard_normal() - 0.5 * self.within_sigma**2)
            hit = self.tail_probability > 0 and stream.random() < self.tail_probability
            return self.overhead_s + costs[client] * steps * batch * noise * (self.tail_factor if hit else 1.0)

        return DrawnTimes(
            fleet, draw, lambda client, steps, batch: self.overhead_s + costs[client] * steps * batch * tail_mean
        )
