"""A fixed share of the planned work per client."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from fedopt.devices._times import client_uniforms
from fedopt.devices.base import Fleet, LocalWork, WorkModel


class FixedFraction(WorkModel):
    """Every client always does the same share of the planned steps: ``max(1, int(K u_i))``, ``u_i ~ U[low, high)``.

    References: FLGo work mode FSU (low 0, high 1).
    """

    low: float = Field(0.0, ge=0, le=1, description="smallest share of the planned steps, in [0, 1]")
    high: float = Field(1.0, gt=0, le=1, description="largest share of the planned steps, in (0, 1]")

    @model_validator(mode="after")
    def _ordered(self) -> FixedFraction:
        if self.low > self.high:
            raise ValueError(f"low must be <= high = {self.high}, got {self.low}")
        return self

    def bind(self, fleet: Fleet) -> LocalWork:
        """Shares of this fleet."""
        return _Fractions(self.low + (self.high - self.low) * client_uniforms(fleet, "work-fractions"))


class _Fractions(NamedTuple):
    fractions: np.ndarray  # [num_clients]

    def steps(self, client: int, task: int, planned: int) -> int:
        """Steps of every task of the client."""
        return max(1, int(planned * self.fractions[client])) if planned else 0
