"""Yogi at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedopt.aggregators._adaptive import REFERENCE, Adaptive, AdaptiveState
from fedopt.aggregators.base import Step
from fedopt.types import Public

if TYPE_CHECKING:
    import torch


class FedYogi(Adaptive):
    """Yogi at the server: the second moment changes by a bounded amount, whichever way.

    With ``u`` the cohort's weighted mean update, elementwise::

        m <- beta1 * m + (1 - beta1) * u
        v <- v - (1 - beta2) * u**2 * sign(v - u**2)
        params <- params + server_lr * m / (sqrt(v) + tau)

    Guarantees: no bias correction. Without survivors the first moment still carries the model. Under privacy both
    moments see only the released, already noised update.

    References: Reddi et al. 2021, Adaptive Federated Optimization, Algorithm 2, arXiv:2003.00295.

    Differences from the paper: 1. ``weights: num_examples`` is offered beside its uniform mean. 2. ``initial_v: zero``
    is offered beside ``tau**2``.
    """

    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment, in [0, 1)")
    beta2: float = Field(0.99, ge=0, lt=1, description="decay of the second moment, in [0, 1)")

    def init(self, params: torch.Tensor, public: Public) -> AdaptiveState:
        """Start from the given parameters."""
        return self.initial_state(params)

    def step(self, state: AdaptiveState, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Update both moments and move."""
        update = released["update"]
        first = self.beta1 * state.first_moment + (1 - self.beta1) * update
        square = update.square()
        second = state.second_moment - (1 - self.beta2) * square * (state.second_moment - square).sign()
        return Step(self.moved(state, first, second))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return (REFERENCE,)
