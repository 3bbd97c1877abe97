"""Staleness weights: how much less an update counts when the model has moved on since its client started."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field, model_validator

from fedopt.components import Settings


class Staleness(Settings):
    """Base of staleness weights ``weight(staleness) = raw_weight(staleness) / raw_weight(average_staleness)``.

    Guarantees: ``raw_weight(0) = 1`` and ``raw_weight`` does not increase, so ``max_weight() = weight(0)`` bounds
    every weight; it is 1 at the default ``average_staleness = 0``.

    References: FLSim (Meta) divides by the weight at its ``avg_staleness`` (default 1 there), so that a typical
    update weighs 1 and a fresh one more.
    """

    average_staleness: float = Field(
        0.0, ge=0, description="staleness in server steps at which the weight is 1; 0 gives fresh updates weight 1"
    )

    @abstractmethod
    def raw_weight(self, staleness: float) -> float:
        """Weight before normalisation for a staleness >= 0 in server steps; 1 at 0, never increasing."""

    @model_validator(mode="after")
    def _reference_is_positive(self) -> Staleness:
        if self.raw_weight(self.average_staleness) <= 0:
            raise ValueError(
                f"the weight at average_staleness = {self.average_staleness} is 0, so nothing can be divided by it; "
                "lower average_staleness"
            )
        return self

    def weight(self, staleness: int) -> float:
        """Weight of an update that is ``staleness`` server steps old."""
        return self.raw_weight(staleness) / self.raw_weight(self.average_staleness)

    def max_weight(self) -> float:
        """Public upper bound of ``weight``: the factor by which it can raise a sensitivity."""
        return self.weight(0)
