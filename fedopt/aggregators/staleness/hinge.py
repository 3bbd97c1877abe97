"""Hinge staleness weighting."""

from __future__ import annotations

from pydantic import Field

from fedopt.aggregators.staleness.base import Staleness


class Hinge(Staleness):
    """Weight 1 up to a staleness b, then ``s(u) = 1 / (a (u - b) + 1)``.

    >>> [Hinge(a=10.0, b=4).weight(u) for u in (4, 5)] == [1.0, 1 / 11]
    True

    References: Xie, Koyejo, Gupta 2019, Asynchronous Federated Optimization, arXiv:1903.03934. The ``+ 1`` keeps the
    weight continuous at b.
    """

    a: float = Field(10.0, ge=0, description="slope a >= 0 of the decay beyond b, per server step")
    b: float = Field(4.0, ge=0, description="staleness in server steps up to which the weight is 1")

    def raw_weight(self, staleness: float) -> float:
        """1, or the hyperbola beyond b."""
        return 1.0 if staleness <= self.b else 1.0 / (self.a * (staleness - self.b) + 1.0)
