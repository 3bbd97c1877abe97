"""FedBuff: buffered asynchronous aggregation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from fedopt.aggregators._corrections import capped, frequency_factor, gap_factor, uncapped
from fedopt.aggregators._stream import Stream
from fedopt.aggregators.base import (
    REJECT,
    Admission,
    Importance,
    Reduced,
    Step,
    broadcast,
    fixed_mean,
    max_importance,
    mean_importance,
    raw_importance,
    refuse_problems,
    total_importance,
    weighted_mean,
)
from fedopt.aggregators.staleness.base import Staleness
from fedopt.components import KindOf
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of FedBuff."""

    params: torch.Tensor  # shape [d]
    momentum: torch.Tensor  # shape [d]


class FedBuff(Stream):
    """A server step per ``buffer_size`` uploads, each weighted by its staleness.

    ``momentum <- beta * momentum + sum_i s(staleness_i) c_i update_i``; ``params <- params + server_lr * momentum``,
    with K = ``buffer_size`` and

    * ``weights: identical``: ``c_i = n_i / n_mean`` (1 with uniform importance) divided by K (``normalization: mean``),
      by 1 (``weighted_sum``: server_lr then contains 1/K), or by the sum of the weights (``weighted_mean``);
    * ``weights: unbiased``: ``c_i = p_i / f_i``, where f_i is the measured fraction of server steps with client i, or
      the given ``frequencies``;
    * ``weights: gap``: ``c_i = p_i * (server steps since i's previous contribution)``.

    Guarantees: with K = concurrency, equal durations, per_instant dispatch and no staleness it is FedAvg bit for bit.
    Unbiased and gap weights are never renormalised; they remove the speed bias only with ``staleness: constant``,
    since s itself favours fast clients. ``max_staleness`` rejects: a rejected reply does not fill the buffer.

    References: Nguyen et al. 2022, Federated Learning with Buffered Asynchronous Aggregation, Algorithm 1,
    arXiv:2106.06639; weights: Fraboni et al. 2023, JMLR 24(110), arXiv:2206.10189.

    Differences from the paper: 1. Normalisation by weighted sum (FLSim) and weighted mean (FedScale) are offered.
    2. A partial buffer at the end of a run is not flushed. 3. ``restart: at_step`` is the framework paper's form.
    """

    buffer_size: int = Field(10, ge=1, description="uploads K per server step, >= 1")
    staleness: Annotated[Staleness, KindOf("fedopt.aggregators.staleness")] = Field(
        {"kind": "polynomial", "exponent": 0.5}, validate_default=True, description="staleness weight s of an upload"
    )
    weights: Literal["identical", "unbiased", "gap"] = Field(
        "identical", description="correction of speed bias: identical (none), unbiased (by frequency), or gap"
    )
    importance: Importance = Field("uniform", description="importance p_i of a client: uniform, or num_examples")
    normalization: Literal["mean", "weighted_sum", "weighted_mean"] = Field(
        "mean", description="identical weights: divide the sum by K, by nothing, or by the sum of the weights"
    )
    frequencies: tuple[float, ...] | None = Field(
        None, strict=False, description="known fraction of server steps with each client, for unbiased weights"
    )
    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")
    beta: float = Field(0.0, ge=0, lt=1, description="decay of the server momentum, in [0, 1); 0 is none")
    max_staleness: int | None = Field(None, ge=0, description="reject staler uploads, in server steps; null: never")
    max_correction: float | None = Field(
        None, ge=1, description="largest factor on p_i, >= 1; null is no limit; required by corrections under privacy"
    )

    @model_validator(mode="after")
    def _options_fit(self) -> FedBuff:
        if self.weights != "identical" and self.normalization != "mean":
            raise ValueError(
                f"normalization applies to weights: identical only; {self.weights} weights are absolute; leave it out"
            )
        if self.frequencies is not None and (self.weights != "unbiased" or min(self.frequencies, default=0) <= 0):
            raise ValueError("frequencies belong to weights: unbiased and must all be > 0")
        return self

    def problems(self, public: Public) -> tuple[str, ...]:
        """Wrong number of frequencies; data-dependent denominators or unbounded weights under privacy."""
        found: tuple[str, ...] = ()
        if self.frequencies is not None and len(self.frequencies) != public.num_clients:
            found += (
                f"frequencies must have one entry per client ({public.num_clients}), got {len(self.frequencies)}",
            )
        if public.is_private and self.normalization == "weighted_mean":
            found += ("normalization: weighted_mean divides by what arrived; use mean under privacy",)
        if self.weights != "identical":
            found += uncapped(public, self.weights, self.max_correction)
        return found

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters, at rest."""
        refuse_problems(self, public)
        return State(params, params.new_zeros(params.shape))

    def plan(self, state: State, public: Public) -> Exchange:
        """A step per K admitted uploads."""
        return self.exchange_of(self.buffer_size)

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Staleness weight times importance times correction; REJECT beyond ``max_staleness``."""
        if self.max_staleness is not None and meta.staleness > self.max_staleness:
            return REJECT
        importance = raw_importance(self.importance, public, meta.client)
        return importance * self.staleness.weight(meta.staleness) * self._correction(meta)

    def _correction(self, meta: ReplyMeta) -> float:
        if self.weights == "identical":
            return 1.0
        if self.weights == "gap":
            return capped(gap_factor(meta), self.max_correction)
        if self.frequencies is not None:
            return capped(1.0 / self.frequencies[meta.client], self.max_correction)
        return capped(frequency_factor(meta), self.max_correction)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Weighted sum over the buffer, by the chosen denominator."""
        if self.normalization == "weighted_mean":
            return {"update": weighted_mean(batch, "update", state.params, public)}
        largest = max_importance(self.importance, public) * self.staleness.max_weight()
        if self.weights == "identical":
            denominator = mean_importance(self.importance, public)
            denominator *= self.buffer_size if self.normalization == "mean" else 1
        else:
            denominator = total_importance(self.importance, public)
            largest *= self.max_correction if self.max_correction is not None else float("inf")
        return {"update": fixed_mean(batch, "update", state.params, denominator, largest)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the (momentum of the) buffer's sum."""
        momentum = self.beta * state.momentum + released["update"]
        return Step(State(state.params + self.server_lr * momentum, momentum))

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Nguyen et al. 2022, Federated Learning with Buffered Asynchronous Aggregation, arXiv:2106.06639",
            "Fraboni et al. 2023, A General Theory for Federated Optimization, JMLR 24(110), arXiv:2206.10189",
        )
