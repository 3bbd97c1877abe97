"""Coordinate-wise median: a robust choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import Admission, Method, Reduced, Step, broadcast, no_bound, refuse_problems
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of Median."""

    params: torch.Tensor  # shape [d]


class Median(Method):
    """Coordinate-wise median of the cohort's updates: up to half of it may be arbitrary.

    ``params <- params + server_lr * median_i update_i`` in every coordinate; for an even number, the mean of the two
    middle values.

    Guarantees: every coordinate lies between the smallest and largest of the honest majority. With no survivors the
    model does not move. The order of clients does not matter.

    References: Yin, Chen, Kannan, Bartlett 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates, Algorithm 1 (option I), arXiv:1803.01498.

    Differences from the paper: local training updates instead of gradients. Refused under privacy: no bound.
    """

    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")

    def problems(self, public: Public) -> tuple[str, ...]:
        """Not under privacy."""
        return (no_bound(self, "one client can move a median far"),) if public.is_private else ()

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters."""
        refuse_problems(self, public)
        return State(params)

    def plan(self, state: State, public: Public) -> Exchange:
        """One exchange per round; all of the cohort."""
        return Exchange()

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Median of every coordinate."""
        if not batch.metas:
            return {"update": (state.params.new_zeros(state.params.shape), None)}
        ordered = batch.part("update").rows().sort(dim=0).values
        count = len(batch.metas)
        return {"update": ((ordered[(count - 1) // 2] + ordered[count // 2]) / 2, None)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the median."""
        return Step(State(state.params + self.server_lr * released["update"]))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Yin, Chen, Kannan, Bartlett 2018, Byzantine-Robust Distributed Learning, arXiv:1803.01498",)
