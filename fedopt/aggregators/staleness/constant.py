"""No staleness weighting."""

from __future__ import annotations

from fedopt.aggregators.staleness.base import Staleness


class Constant(Staleness):
    """Weight 1 for every update, however stale: ``s(u) = 1``.

    >>> Constant().weight(7)
    1.0
    """

    def raw_weight(self, staleness: float) -> float:
        """Always 1."""
        return 1.0
