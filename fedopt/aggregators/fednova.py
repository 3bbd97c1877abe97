"""Normalised averaging for clients that do different amounts of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import (
    Admission,
    Importance,
    Method,
    Reduced,
    Step,
    broadcast,
    fixed_mean,
    max_importance,
    mean_importance,
    raw_importance,
    refuse_problems,
    weighted_sum,
)
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of FedNova."""

    params: torch.Tensor  # shape [d]
    momentum: torch.Tensor  # shape [d]


class FedNova(Method):
    """Normalised averaging: every update is divided by how far its local steps can move it.

    With |a_i| the reply's ``normalizer`` (the number of local steps for plain SGD) and p_i the importances of the
    cohort, summing to 1::

        tau = sum_i p_i |a_i|                  or sum_i p_i local_steps_i
        momentum <- beta * momentum + tau * sum_i p_i update_i / |a_i|
        params <- params + server_lr * momentum

    Guarantees: with equal |a_i| and ``beta = 0`` this is FedAvg; quadratics with different |a_i| reach the p-weighted
    optimum (FedAvg does not). A reply with ``normalizer`` 0 (no local step) counts for nothing.

    References: Wang et al. 2020, Tackling the Objective Inconsistency Problem, arXiv:2007.07481.

    Differences from the paper: 1. Under partial participation p_i is normalised over the cohort. 2. Under privacy tau
    is the constant ``tau_effective`` and the denominator the expected cohort: what arrived is not public. |a_i| is
    then raised to 1 where a proximal term makes it smaller, so that a weight is at most ``max n_i / n_mean``. 3. The
    momentum holds updates; the authors' holds updates divided by the local learning rate and is multiplied by the
    current one, which differs while that rate changes. 4. Clients weigh alike by default.
    """

    weights: Importance = Field("uniform", description="importance of a client: uniform, or its number of examples")
    effective_steps: Literal["normalizer", "local_steps"] = Field(
        "normalizer", description="what tau averages: normalizer, or local_steps (usual with a proximal term)"
    )
    tau_effective: float | None = Field(
        None, gt=0, description="public constant for tau, in local steps; null measures it; required under privacy"
    )
    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")
    beta: float = Field(0.0, ge=0, lt=1, description="decay of the server momentum, in [0, 1); 0 is none")

    def problems(self, public: Public) -> tuple[str, ...]:
        """Under privacy tau must not depend on who took part."""
        if public.is_private and self.tau_effective is None:
            return ("fednova measures tau_effective from the cohort; set it to a public constant under privacy",)
        return ()

    def weighs_alike(self) -> bool:
        """Never: a reply is divided by its steps."""
        return False

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters, at rest."""
        refuse_problems(self, public)
        return State(params, params.new_zeros(params.shape))

    def plan(self, state: State, public: Public) -> Exchange:
        """One exchange per round; all of the cohort."""
        return Exchange()

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight ``importance / |a_i|``; 0 for a reply without local steps."""
        if meta.normalizer <= 0:
            return 0.0
        # Momentum with a strong proximal term can make |a_i| small; a public bound on the weight needs a floor.
        steps = max(1.0, meta.normalizer) if public.is_private else meta.normalizer
        return raw_importance(self.weights, public, meta.client) / steps

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """``tau * sum_i p_i update_i / |a_i|``."""
        if public.is_private:
            assert self.tau_effective is not None
            denominator = public.expected_cohort * mean_importance(self.weights, public) / self.tau_effective
            largest = max_importance(self.weights, public)
            return {"update": fixed_mean(batch, "update", state.params, denominator, largest)}
        total = weighted_sum(batch, "update", state.params)
        importance = [w * m.normalizer for w, m in zip(batch.weights, batch.metas, strict=True)]
        arrived = sum(importance)
        return {"update": (total * (self._tau(batch, importance) / arrived) if arrived > 0 else total, None)}

    def _tau(self, batch: ReplyBatch, importance: list[float]) -> float:
        if self.tau_effective is not None:
            return self.tau_effective
        steps = [m.normalizer if self.effective_steps == "normalizer" else m.local_steps for m in batch.metas]
        return sum(p * s for p, s in zip(importance, steps, strict=True)) / sum(importance)

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the (momentum of the) normalised update."""
        momentum = self.beta * state.momentum + released["update"]
        return Step(State(state.params + self.server_lr * momentum, momentum))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Wang et al. 2020, Tackling the Objective Inconsistency Problem, arXiv:2007.07481",)
