"""Task times like those measured on a serverless cloud."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from pydantic import Field, field_validator

from fedopt import rng
from fedopt.devices._times import client_normals
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet, Seconds

PROBABILITIES = (0.05, 0.5, 0.9, 0.99, 0.999)
QUANTILES = {  # load -> seconds at PROBABILITIES: 256 workers, MNIST CNN, batch 2048, 30 rounds, region Canada
    0.0: (0.604, 0.644, 0.889, 1.45, 1.79),
    0.25: (0.904, 0.948, 1.183, 2.03, 3.45),
    0.5: (1.105, 1.158, 1.314, 1.93, 26.3),
    1.0: (1.666, 1.791, 1.947, 2.67, 3.12),
}
LONGEST_S = 40.0  # the rarest measured events took 25 to 40 seconds
BETWEEN, ROUNDS, TOTAL = 0.081, 0.061, 0.189  # standard deviations of log times at load 0


class LambdaLike(ComputeModel):
    """Times like 256 AWS Lambda workers training an MNIST CNN: mostly transient slowness, rare long events.

    A standard normal z is mapped through the measured quantiles (5, 50, 90, 99, 99.9 %) of the chosen load, joined by
    lines in (z, log T) and continued to at most 40 s. z is the sum of a part of the client, one of the task number (the
    round) and one of the task, in the measured proportions of their standard deviations 0.081 : 0.061 : the rest of
    0.189, so slow tasks mostly do not repeat. The means are those of this curve (0.722, 1.038, 1.284, 1.834 s at the
    four loads), not exactly the measured ones (0.703, 1.021, 1.239, 1.837 s).

    References: traces published with Krishnan, Ebrahimi, Khisti 2022, Sequential Gradient Coding, arXiv:2211.13802.
    """

    load: float = Field(
        0.0, ge=0, description="fraction of the data set a worker processes per task: 0, 0.25, 0.5 or 1"
    )
    time_scale: float = Field(1.0, gt=0, allow_inf_nan=False, description="factor on all times")

    @field_validator("load")
    @classmethod
    def _measured(cls, value: float) -> float:
        if value not in QUANTILES:
            raise ValueError(f"must be a measured load ({', '.join(map(str, QUANTILES))}), got {value}")
        return value

    def quantile(self, z: np.ndarray) -> np.ndarray:
        """Seconds at standard normal scores z, any shape."""
        knots, logs, slopes = _curve(self.load)
        segment = np.clip(np.searchsorted(knots, z) - 1, 0, len(slopes) - 1)
        return self.time_scale * np.minimum(LONGEST_S, np.exp(logs[segment] + slopes[segment] * (z - knots[segment])))

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Draws for this fleet."""
        return _Lambda(self, fleet.seed, client_normals(fleet, "compute-speeds"))


@cache
def _curve(load: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(z, log T, slope to the next) of the measured quantiles."""
    from scipy.special import ndtri

    knots, logs = ndtri(PROBABILITIES), np.log(QUANTILES[load])
    return knots, logs, np.diff(logs) / np.diff(knots)


class _Lambda(NamedTuple):
    settings: LambdaLike
    seed: int
    clients: np.ndarray  # standard normal part of every client [num_clients]

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Time of the client's task-th task, whatever its steps: the load stands for the work."""
        rest = math.sqrt(TOTAL**2 - BETWEEN**2 - ROUNDS**2)
        of_round = rng.generator(self.seed, "compute-rounds", task).standard_normal()
        of_task = rng.generator(self.seed, "compute", client, task).standard_normal()
        z = (BETWEEN * self.clients[client] + ROUNDS * of_round + rest * of_task) / TOTAL
        return float(self.settings.quantile(np.asarray(z)))

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds]:
        """Mean over tasks given the client's part, by quadrature."""
        from scipy.special import ndtri

        scores = ndtri((np.arange(4000) + 0.5) / 4000) * math.sqrt(1 - (BETWEEN / TOTAL) ** 2)
        parts = np.linspace(-7, 7, 281)
        means = [float(self.settings.quantile(scores + BETWEEN / TOTAL * part).mean()) for part in parts]
        return np.interp(self.clients, parts, means).tolist()
