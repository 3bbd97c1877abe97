"""What the adaptive server optimisers (Reddi et al. 2021) share: their state and the scaled step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from fedopt.aggregators._cohort_mean import CohortMean

if TYPE_CHECKING:
    import torch

REFERENCE = "Reddi et al. 2021, Adaptive Federated Optimization, Algorithm 2, arXiv:2003.00295"


class AdaptiveState(NamedTuple):
    """State of an adaptive server optimiser."""

    params: torch.Tensor  # shape [d]
    first_moment: torch.Tensor  # m, shape [d]
    second_moment: torch.Tensor  # v, shape [d]


class Adaptive(CohortMean):
    """Abstract: server steps ``params <- params + server_lr * m / (sqrt(v) + tau)``, without bias correction."""

    server_lr: float = Field(0.1, gt=0, description="server learning rate, > 0")
    tau: float = Field(1e-3, gt=0, description="adaptivity: added to the square root, > 0; large is less adaptive")
    initial_v: Literal["tau_squared", "zero"] = Field(
        "tau_squared", description="second moment before the first step: tau_squared (paper), or zero"
    )

    def initial_state(self, params: torch.Tensor) -> AdaptiveState:
        """First moment 0, second moment by ``initial_v``."""
        zeros = params.new_zeros(params.shape)
        return AdaptiveState(params, zeros, zeros + (self.tau**2 if self.initial_v == "tau_squared" else 0.0))

    def moved(self, state: AdaptiveState, first: torch.Tensor, second: torch.Tensor) -> AdaptiveState:
        """The step for new moments, elementwise."""
        return AdaptiveState(state.params + self.server_lr * first / (second.sqrt() + self.tau), first, second)
