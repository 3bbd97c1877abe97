"""FADAS: buffered asynchronous AMSGrad with a delay-adaptive learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators._stream import Stream
from fedopt.aggregators.base import Admission, Reduced, Step, broadcast, fixed_mean, refuse_problems
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of FADAS."""

    params: torch.Tensor  # shape [d]
    first_moment: torch.Tensor  # m, shape [d]
    second_moment: torch.Tensor  # v, shape [d]
    largest_moment: torch.Tensor  # largest v so far, shape [d]


class FADAS(Stream):
    """AMSGrad at the server on a buffer of uploads; very stale buffers move it less.

    With ``u`` the mean of K = ``buffer_size`` updates and q the largest staleness among them, elementwise::

        m <- beta1 * m + (1 - beta1) * u
        v <- beta2 * v + (1 - beta2) * u**2;   w <- max(w, v)
        params <- params + rate * m / (sqrt(w) + epsilon)
        rate = server_lr if q <= staleness_limit else min(server_lr, 1 / q)

    Guarantees: w never decreases. ``staleness_limit: null`` never slows down.

    References: Wang et al. 2024, FADAS: Towards Federated Adaptive Asynchronous Optimization, ICML 2024.

    Differences from the paper: the form of the delay-adaptive rate could not be confirmed in the text; it is an option
    and under privacy must be off, because it would make q a released part.
    """

    buffer_size: int = Field(5, ge=1, description="uploads K per server step, >= 1")
    server_lr: float = Field(0.001, gt=0, description="server learning rate, > 0")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment, in [0, 1)")
    beta2: float = Field(0.99, ge=0, lt=1, description="decay of the second moment, in [0, 1)")
    epsilon: float = Field(1e-8, gt=0, description="added to the square root, > 0")
    staleness_limit: int | None = Field(
        1, ge=0, description="largest staleness in server steps with the full learning rate; null: always full"
    )

    def problems(self, public: Public) -> tuple[str, ...]:
        """Under privacy only without the delay-adaptive rate."""
        if public.is_private and self.staleness_limit is not None:
            return ("fadas: the delay-adaptive rate is not a released value; set staleness_limit: null under privacy",)
        return ()

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters, all moments 0."""
        refuse_problems(self, public)
        zeros = params.new_zeros(params.shape)
        return State(params, zeros, zeros, zeros)

    def plan(self, state: State, public: Public) -> Exchange:
        """A step per K uploads."""
        return self.exchange_of(self.buffer_size)

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean of the buffer, and its largest staleness ``[1]`` where the rate adapts to it."""
        reduced: Reduced = {"update": fixed_mean(batch, "update", state.params, float(self.buffer_size))}
        if self.staleness_limit is not None:
            largest = max((meta.staleness for meta in batch.metas), default=0)
            reduced["staleness"] = (state.params.new_full((1,), float(largest)), None)
        return reduced

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Update the moments and move."""
        update = released["update"]
        first = self.beta1 * state.first_moment + (1 - self.beta1) * update
        second = self.beta2 * state.second_moment + (1 - self.beta2) * update.square()
        largest = state.largest_moment.maximum(second)
        params = state.params + self._rate(released) * first / (largest.sqrt() + self.epsilon)
        return Step(State(params, first, second, largest))

    def _rate(self, released: dict[str, torch.Tensor]) -> float:
        if self.staleness_limit is None or float(released["staleness"]) <= self.staleness_limit:
            return self.server_lr
        return min(self.server_lr, 1.0 / float(released["staleness"]))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Wang et al. 2024, FADAS: Towards Federated Adaptive Asynchronous Optimization, ICML 2024",)
