"""Averaging of points and of correction vectors: the server of FZooS and of SCAFFOLD-ZO I."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import (
    Admission,
    Importance,
    Method,
    Reduced,
    Step,
    importance_mean,
    raw_importance,
    refuse_problems,
)
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of the server."""

    params: torch.Tensor  # x, shape [d]
    correction: torch.Tensor | None  # w, shape [M] (features) or [d] (an estimate); None before the first one
    round: int  # r = 1, 2, ... of the coming or running round
    version: int  # versions of the model so far
    asks_correction: bool  # the second exchange of the round is under way


class GradientCorrection(Method):
    """The server of FZooS and SCAFFOLD-ZO I: averages points, then the vectors that correct gradients.

    With S the admitted replies::

        first exchange    params     <- params + server_lr * mean_S update_i
        second exchange   correction <- mean_S correction_i          at the new params, from the same clients

    ``exchanges: 1`` lets both travel together (FZooS without queries around the new point). A round is as many server
    steps as it has exchanges, named ``points`` and ``correction`` in the log.

    Sent down: the model unless the client holds it, the correction from round 2 on, and ``seed_bytes`` once for a new
    client. From round 2 on that is 4 (d + M) bytes each way with full participation.

    Guarantees: the corrections of the clients that made it cancel in the mean. A client lost between the exchanges is
    left out of the second; with no reply at all the correction stays. Partial participation is not defined by the
    papers: here the mean is over those that took part.

    Refused under privacy: both exchanges of a round go to the same clients, so they would share one coin of the
    sampling and be two contributions, and no bound of the corrections is known.

    References: Shu et al. 2023, arXiv:2308.04077 (FZooS); Karimireddy et al. 2020, SCAFFOLD, arXiv:1910.06378.
    """

    exchanges: Literal[1, 2] = Field(2, description="2: corrections are made at the new point; 1: sent with the points")
    weights: Importance = Field("uniform", description="weight of a client: uniform, or its number of examples")
    server_lr: float = Field(1.0, gt=0, description="global step size, > 0; the papers use 1")
    seed_bytes: int = Field(
        8,
        ge=0,
        description="bytes sent once to a new client: the seed of FZooS' features; set 0 for SCAFFOLD, which has none",
    )

    def problems(self, public: Public) -> tuple[str, ...]:
        """No accounting exists for two releases that share a cohort."""
        if not public.is_private:
            return ()
        return (
            "gradient_correction has no privacy analysis: its exchanges ask the same clients twice; use "
            "aggregator: {kind: fedavg} with client: {kind: finite_difference}, or {kind: decomfl}",
        )

    def reply_parts(self) -> tuple[str, ...]:
        """Change of model, and what corrects the local estimates."""
        return ("update", "correction")

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters, without a correction."""
        refuse_problems(self, public)
        return State(params, None, 1, 0, False)

    def plan(self, state: State | None, public: Public) -> Exchange:
        """The first exchange of a round."""
        return Exchange(phase="points")

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """What the client lacks of the model, the correction and the seed."""
        dimension = state.params.numel()
        config = {"round": state.round, "ask": "both" if self.exchanges == 1 else "points"}
        if state.asks_correction:
            return Message({"params": state.params}, {**config, "ask": "correction"}, 4 * dimension)
        parts, size = {"params": state.params}, 0 if last_version == state.version else 4 * dimension
        if state.correction is not None:
            parts["correction"] = state.correction
            size += 4 * state.correction.numel()
        return Message(parts, config, size + (self.seed_bytes if last_version is None else 0))

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1 or n_i."""
        return raw_importance(self.weights, public, meta.client)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Means of what was asked for."""
        made: Reduced = {}
        if not state.asks_correction:
            made["update"] = importance_mean(batch, "update", state.params, public, self.weights)
        if state.asks_correction or self.exchanges == 1:
            like = state.correction if not batch.metas else batch.part("correction").take([0]).rows()[0]
            if like is not None:
                made["correction"] = importance_mean(batch, "correction", like, public, self.weights)
        if not batch.metas:
            made.pop("correction", None)
        return made

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move the model, or replace the correction."""
        correction = released.get("correction", state.correction)
        if state.asks_correction:
            done = state._replace(correction=correction, round=state.round + 1, asks_correction=False)
            return Step(done, new_version=False)
        moved = state.params + self.server_lr * released["update"]
        if self.exchanges == 1:
            return Step(State(moved, correction, state.round + 1, state.version + 1, False))
        next_state = State(moved, state.correction, state.round, state.version + 1, True)
        return Step(next_state, exchange=Exchange(phase="correction", cohort="same"))

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Shu et al. 2023, Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate Gradients, "
            "arXiv:2308.04077",
            "Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging, arXiv:1910.06378",
        )
