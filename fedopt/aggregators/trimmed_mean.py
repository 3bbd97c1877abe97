"""Coordinate-wise trimmed mean: a robust choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators._corrections import exact
from fedopt.aggregators.base import Admission, Method, Reduced, Step, broadcast, no_bound, refuse_problems
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of the trimmed mean."""

    params: torch.Tensor  # shape [d]


class TrimmedMean(Method):
    """Coordinate-wise mean after dropping the smallest and largest values of the cohort.

    In every coordinate the ``floor(trim * m)`` smallest and as many largest of the m values are dropped;
    ``params <- params + server_lr * mean`` of the rest.

    Guarantees: ``trim = 0`` is FedAvg with uniform weights. Fewer than ``trim * m`` arbitrary clients cannot move a
    coordinate outside the honest values. With no survivors the model does not move. Order does not matter.

    References: Yin, Chen, Kannan, Bartlett 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates, Algorithm 1 (option II), arXiv:1803.01498.

    Differences from the paper: local training updates instead of gradients. Refused under privacy: no bound.
    """

    trim: float = Field(0.1, ge=0, lt=0.5, description="fraction dropped at each end, in [0, 0.5)")
    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")

    def problems(self, public: Public) -> tuple[str, ...]:
        """Not under privacy."""
        return (no_bound(self, "a dropped value brings in another"),) if public.is_private else ()

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
        """Trimmed mean of every coordinate."""
        if not batch.metas:
            return {"update": (state.params.new_zeros(state.params.shape), None)}
        ordered = batch.part("update").rows().sort(dim=0).values
        count = len(batch.metas)
        dropped = int(exact(self.trim) * count)
        return {"update": (ordered[dropped : count - dropped].mean(dim=0), None)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the trimmed mean."""
        return Step(State(state.params + self.server_lr * released["update"]))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Yin, Chen, Kannan, Bartlett 2018, Byzantine-Robust Distributed Learning, arXiv:1803.01498",)
