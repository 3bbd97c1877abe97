"""Federated averaging with server momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators._cohort_mean import CohortMean
from fedopt.aggregators.base import Step
from fedopt.types import Public

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of FedAvgM."""

    params: torch.Tensor  # shape [d]
    momentum: torch.Tensor  # shape [d]


class FedAvgM(CohortMean):
    """Federated averaging with momentum at the server.

    ``momentum <- beta * momentum + update``; ``params <- params + server_lr * momentum``, where ``update`` is the
    cohort's weighted mean.

    Guarantees: ``beta = 0`` is FedAvg bit for bit. Without survivors the momentum still carries the model.

    References: Hsu, Qi, Brown 2019, Measuring the Effects of Non-Identical Data Distribution, arXiv:1909.06335.
    """

    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")
    beta: float = Field(0.9, ge=0, lt=1, description="decay of the server momentum, in [0, 1)")

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters, at rest."""
        return State(params, params.new_zeros(params.shape))

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the momentum."""
        momentum = self.beta * state.momentum + released["update"]
        return Step(State(state.params + self.server_lr * momentum, momentum))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Hsu, Qi, Brown 2019, Measuring the Effects of Non-Identical Data Distribution, arXiv:1909.06335",)
