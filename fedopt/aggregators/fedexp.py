"""Federated averaging with an extrapolated server learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators._cohort_mean import CohortMean
from fedopt.aggregators.base import Reduced, Step, importance_mean, no_bound, refuse_problems
from fedopt.types import Public, ReplyBatch

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of FedExP."""

    params: torch.Tensor  # shape [d]
    previous: torch.Tensor  # parameters one step earlier, shape [d]
    epsilon: float  # current stabiliser


class FedExP(CohortMean):
    """Averaging whose server learning rate is found every round by extrapolation.

    With ``u`` the cohort's weighted mean update and p_i its importances, summing to 1::

        server_lr = max(1, sum_i p_i |update_i|^2 / (2 (|u|^2 + epsilon)))
        params <- params + server_lr * u;   epsilon <- epsilon * epsilon_decay

    Evaluated and saved is the average of the last two iterates, as the authors do.

    Guarantees: ``server_lr >= 1``; equal updates or a single one give exactly 1; m orthogonal updates of equal norm
    give m/2 (with ``epsilon = 0``). Zero updates move nothing.

    References: Jhunjhunwala, Wang, Joshi 2023, FedExP: Speeding Up Federated Averaging via Extrapolation,
    arXiv:2301.09604.

    Differences from the paper: 1. The authors' code adds ``cohort * epsilon`` where the formula has ``epsilon``; here
    it is the formula. 2. Refused under privacy: the norms of raw updates would be a further release.
    """

    epsilon: float = Field(1e-3, ge=0, description="stabiliser in units of a squared update norm, >= 0")
    epsilon_decay: float = Field(1.0, gt=0, le=1, description="factor on epsilon per step (authors: client lr decay^2)")

    def problems(self, public: Public) -> tuple[str, ...]:
        """Not under privacy."""
        return (no_bound(self, "its step needs the norms of raw updates"),) if public.is_private else ()

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters."""
        refuse_problems(self, public)
        return State(params, params, self.epsilon)

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean update, and the mean of the squared norms of the updates ``[1]``."""
        update, _ = importance_mean(batch, "update", state.params, public, self.weights)
        return {"update": (update, None), "mean_square_norm": (_mean_square_norm(batch, update), None)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Extrapolate along the mean update."""
        update = released["update"]
        rate = self.extrapolation(float(released["mean_square_norm"]), float(update.square().sum()), state.epsilon)
        return Step(State(state.params + rate * update, state.params, state.epsilon * self.epsilon_decay))

    def extrapolation(self, mean_square_norm: float, square_norm_of_mean: float, epsilon: float) -> float:
        """Server learning rate, >= 1.

        >>> FedExP().extrapolation(3.0, 1.0, 0.0)
        1.5
        """
        denominator = 2 * (square_norm_of_mean + epsilon)
        return max(1.0, mean_square_norm / denominator) if denominator > 0 else 1.0

    def evaluated(self, state: State) -> torch.Tensor:
        """Average of the last two iterates."""
        return (state.params + state.previous) / 2

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Jhunjhunwala, Wang, Joshi 2023, FedExP: Speeding Up Federated Averaging, arXiv:2301.09604",)


def _mean_square_norm(batch: ReplyBatch, like: torch.Tensor) -> torch.Tensor:
    import torch

    arrived = sum(batch.weights)
    if arrived <= 0:
        return torch.zeros(1, dtype=like.dtype, device=like.device)
    norms = batch.part("update").norms()
    weights = torch.tensor(batch.weights, dtype=torch.float64).to(norms)
    return (weights @ norms.square() / arrived).reshape(1)
