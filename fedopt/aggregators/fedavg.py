"""Federated averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import (
    Admission,
    Importance,
    Method,
    Reduced,
    Step,
    broadcast,
    importance_mean,
    raw_importance,
)
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of FedAvg."""

    params: torch.Tensor  # shape [d]


class FedAvg(Method):
    """Federated averaging: a cohort trains, the server moves by the weighted mean of its updates.

    ``params <- params + server_lr * sum_i w_i update_i / sum_i w_i``, with w_i = 1 or n_i.

    Guarantees: with no survivors the model does not move (under privacy: moves by noise only).

    References: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
    Algorithm 1, arXiv:1602.05629.

    Differences from the paper: clients weigh alike by default (``weights: num_examples`` is Algorithm 1's n_k / n);
    there is a server learning rate, 1 by default.
    """

    weights: Importance = Field("uniform", description="weight of a client: uniform, or its number of examples")
    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters."""
        return State(params)

    def plan(self, state: State, public: Public) -> Exchange:
        """One exchange per round; all of the cohort."""
        return Exchange()

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1 or n_i."""
        return raw_importance(self.weights, public, meta.client)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Weighted mean of the updates."""
        return {"update": importance_mean(batch, "update", state.params, public, self.weights)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the mean update."""
        return Step(State(state.params + self.server_lr * released["update"]))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("McMahan et al. 2017, Communication-Efficient Learning of Deep Networks, arXiv:1602.05629",)
