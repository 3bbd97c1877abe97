"""Threshold staleness weighting."""

from __future__ import annotations

from pydantic import Field

from fedopt.aggregators.staleness.base import Staleness


class Threshold(Staleness):
    """Weight 1 up to a cutoff and a smaller constant beyond: ``s(u) = 1 if u <= cutoff else value``.

    A ``value`` of 0 silences stale updates, but they still fill the buffer; ``max_staleness`` of a method rejects them.

    >>> [Threshold(cutoff=2, value=0.25).weight(u) for u in (0, 2, 3)]
    [1.0, 1.0, 0.25]

    References: FLSim (Meta), threshold staleness weight.
    """

    cutoff: float = Field(10.0, ge=0, description="largest staleness in server steps with weight 1")
    value: float = Field(0.0, ge=0, le=1, description="weight beyond the cutoff, in [0, 1]")

    def raw_weight(self, staleness: float) -> float:
        """1, or ``value`` beyond the cutoff."""
        return 1.0 if staleness <= self.cutoff else self.value
