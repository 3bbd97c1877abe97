"""Asynchronous federated averaging: one server step per upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from fedopt.aggregators._corrections import capped, gap_factor, missing_clients, uncapped, upload_rate
from fedopt.aggregators._stream import Stream
from fedopt.aggregators.base import (
    Admission,
    Importance,
    Reduced,
    Step,
    broadcast,
    fixed_mean,
    max_importance,
    raw_importance,
    refuse_problems,
    total_importance,
)
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of asynchronous FedAvg."""

    params: torch.Tensor  # shape [d]
    upload_rate: float  # sum_j 1 / E[T_j], per virtual second; 0 where it is not needed


class AsyncFedAvg(Stream):
    """One server step per upload, with naive or unbiased weights.

    ``params <- params + server_lr * d_i update_i``, with

    * ``identical``: ``d_i = 1``; fast clients count more, in proportion to ``1 / T_i``;
    * ``unbiased``: ``d_i = p_i T_i sum_j 1/T_j`` (expected durations), so that ``f_i d_i = p_i``;
    * ``gap``: ``d_i = p_i * (server steps since i's previous contribution)``, for unknown durations.

    Guarantees: weights are never renormalised. One client alone is plain local SGD for all weights.

    References: Fraboni, Vidal, Kameni, Lorenzi 2023, A General Theory for Federated Optimization with Asynchronous and
    Heterogeneous Clients Updates, JMLR 24(110), arXiv:2206.10189 (asynchronous FedAvg).

    Differences from the paper: gap weights and random durations are extensions. The paper's step sizes are per server
    step: this method makes many more steps per second than FedAvg, so it wants a smaller learning rate.
    """

    weights: Literal["identical", "unbiased", "gap"] = Field(
        "unbiased", description="weight of an upload: identical (1), unbiased (known durations), or gap"
    )
    importance: Importance = Field(
        "uniform", description="importance p_i of a client: uniform, or num_examples; not used by identical weights"
    )
    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")
    max_correction: float | None = Field(
        None, ge=1, description="largest factor on p_i, >= 1; null is no limit; gap weights under privacy need it"
    )

    def problems(self, public: Public) -> tuple[str, ...]:
        """Unknown durations, too few clients in flight, unbounded weights under privacy."""
        if self.weights == "identical":
            return ()
        if self.weights == "gap":
            return uncapped(public, "gap", self.max_correction)
        found = missing_clients(public, "async_fedavg", "unbiased")
        if public.seconds_per_task is None:
            found += ("weights: unbiased of async_fedavg need known durations of the devices' tasks; use gap",)
        elif min(public.seconds_per_task) <= 0:
            found += ("weights: unbiased of async_fedavg need durations > 0, but some are 0; use gap",)
        return found

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters."""
        refuse_problems(self, public)
        return State(params, upload_rate(public) if self.weights == "unbiased" else 0.0)

    def plan(self, state: State, public: Public) -> Exchange:
        """A step per upload."""
        return self.exchange_of(1)

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """1, or ``d_i`` times the population's total importance."""
        if self.weights == "identical":
            return 1.0
        if self.weights == "gap":
            factor = gap_factor(meta)
        else:
            factor = float(public.seconds_per_task[meta.client]) * state.upload_rate
        return raw_importance(self.importance, public, meta.client) * capped(factor, self.max_correction)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """``d_i update_i``."""
        if self.weights == "identical":
            return {"update": fixed_mean(batch, "update", state.params, 1.0)}
        total = total_importance(self.importance, public)
        return {"update": fixed_mean(batch, "update", state.params, total, self._max_weight(state, public))}

    def _max_weight(self, state: State, public: Public) -> float:
        if not public.is_private:
            return 1.0  # nobody asks for the bound
        if self.weights == "gap":
            assert self.max_correction is not None
            factor = self.max_correction
        else:
            factor = capped(float(max(public.seconds_per_task)) * state.upload_rate, self.max_correction)
        return factor * max_importance(self.importance, public)

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the weighted update."""
        return Step(state._replace(params=state.params + self.server_lr * released["update"]))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return (
            "Fraboni, Vidal, Kameni, Lorenzi 2023, A General Theory for Federated Optimization with Asynchronous and "
            "Heterogeneous Clients Updates, JMLR 24(110), arXiv:2206.10189",
        )
