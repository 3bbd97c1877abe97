"""Polynomial staleness weighting."""

from __future__ import annotations

from pydantic import Field

from fedopt.aggregators.staleness.base import Staleness


class Polynomial(Staleness):
    """Weight falls with a power of the staleness: ``s(u) = (1 + u)^(-exponent)``.

    With ``exponent = 0.5`` this is FedBuff's ``1 / sqrt(1 + u)``.

    >>> Polynomial(exponent=0.5).weight(3)
    0.5

    References: Xie, Koyejo, Gupta 2019, Asynchronous Federated Optimization, arXiv:1903.03934; Nguyen et al. 2022,
    Federated Learning with Buffered Asynchronous Aggregation, arXiv:2106.06639.
    """

    exponent: float = Field(0.5, ge=0, description="power a >= 0 of the decay; 0 is no weighting")

    def raw_weight(self, staleness: float) -> float:
        """``(1 + staleness)^(-exponent)``."""
        return float((1.0 + staleness) ** -self.exponent)
