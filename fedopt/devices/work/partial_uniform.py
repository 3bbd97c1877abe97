"""Sometimes only part of the planned work."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from fedopt import rng
from fedopt.devices.base import Fleet, LocalWork, WorkModel


class PartialUniform(WorkModel):
    """With a probability, a task's steps are uniform in {0, .., planned - 1}, but at least 1 (the FedProx setting).

    Redrawn for every task. ``E[steps] = (1 - p) K + p (K (K - 1) / 2 + 1) / K`` for K planned steps.

    References: FLGo work mode PDU (p = 0.5); Li et al. 2020, FedProx, arXiv:1812.06127 (partial work of stragglers).
    """

    probability: float = Field(0.5, ge=0, le=1, description="p: probability that a task is cut short")

    def bind(self, fleet: Fleet) -> LocalWork:
        """Draws for this fleet."""
        return _Partial(fleet.seed, self.probability)


class _Partial(NamedTuple):
    seed: int
    probability: float

    def steps(self, client: int, task: int, planned: int) -> int:
        """Steps of the task."""
        stream = rng.generator(self.seed, "work", client, task)
        if planned == 0:
            return 0  # a client without examples
        if stream.random() >= self.probability:
            return planned
        return max(1, int(stream.integers(planned)))
