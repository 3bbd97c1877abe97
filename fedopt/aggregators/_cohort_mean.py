"""What the synchronous methods share: one round, the current model down, a weighted mean of the updates up."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fedopt.aggregators.base import Admission, Importance, Method, Reduced, broadcast, importance_mean, raw_importance
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta


class CohortMean(Method):
    """Abstract: a round of one exchange whose reduced value ``update`` is the weighted mean of the cohort."""

    weights: Importance = Field("uniform", description="weight of a client: uniform, or its number of examples")

    def plan(self, state: Any, public: Public) -> Exchange:
        """One exchange per round; all of the cohort."""
        return Exchange()

    def payload(self, state: Any, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: Any, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1 or n_i."""
        return raw_importance(self.weights, public, meta.client)

    def reduce(self, state: Any, batch: ReplyBatch, public: Public) -> Reduced:
        """Weighted mean of the updates."""
        return {"update": importance_mean(batch, "update", state.params, public, self.weights)}
