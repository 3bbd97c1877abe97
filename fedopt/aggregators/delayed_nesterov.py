"""Delayed Nesterov with dynamic local updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field, model_validator

from fedopt.aggregators._corrections import exact
from fedopt.aggregators._stream import Stream
from fedopt.aggregators.base import Admission, Reduced, Step, broadcast, fixed_mean, refuse_problems
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of Delayed Nesterov."""

    params: torch.Tensor  # shape [d]
    momentum: torch.Tensor  # m, in update direction, shape [d]
    collected: torch.Tensor  # A: sum of updates since m last changed, shape [d]
    received: int  # t: updates received so far
    local_steps: tuple[int, ...]  # of every client (DyLU); empty when the client work decides


class DelayedNesterov(Stream):
    """Every upload moves the model; the Nesterov momentum changes only every ``delay`` uploads.

    With ``u`` the arriving update, N = ``delay``, c = ``activation`` and e = ``server_lr``::

        A <- A + u
        every N-th upload:   m <- beta * m + A / N;   A <- 0
                             params <- params + e * ((1 - c N + c) * beta * m + u / N)
        the others:          params <- params + e * (c * beta * m + u / N)

    Dynamic local updates: with ``fastest_local_steps`` H, client i takes ``max(1, floor(H * min_j T_j / T_i))`` steps
    (``local_steps`` in its payload), T_i being its duration for equal work, so that all finish together.

    Guarantees: N = 1 is plain Nesterov for every c. With c = 0, N uploads equal one Nesterov step on their mean.
    ``beta = 0`` is SGD with rate e / N per upload.

    References: Liu et al. 2024, Asynchronous Local-SGD Training for Language Modeling, arXiv:2401.09135.

    Differences from the paper: 1. In update direction (its g is minus u). 2. No grace period: simultaneous uploads
    are one group (``dispatch: per_instant``), that is a grace period of 0. 3. Shards are the clients' own data.
    """

    delay: int = Field(
        4, ge=1, description="uploads N between changes of the momentum; the number of workers is natural"
    )
    activation: float = Field(0.0, ge=0, description="share c of the momentum in every upload, in [0, 1/delay]")
    beta: float = Field(0.9, ge=0, lt=1, description="decay of the momentum, in [0, 1)")
    server_lr: float = Field(0.7, gt=0, description="outer learning rate, > 0")
    fastest_local_steps: int | None = Field(
        None, ge=1, description="local steps H of the fastest client; slower ones take fewer; null: client work decides"
    )

    @model_validator(mode="after")
    def _activation_fits(self) -> DelayedNesterov:
        if self.activation * self.delay > 1:
            raise ValueError(f"activation must be <= 1/delay = {1 / self.delay:g}, got {self.activation:g}")
        return self

    def problems(self, public: Public) -> tuple[str, ...]:
        """Dynamic local updates need durations."""
        if self.fastest_local_steps is None:
            return ()
        if public.seconds_for_equal_work is None:
            return ("fastest_local_steps needs known durations of the devices' tasks; set it to null",)
        if min(public.seconds_for_equal_work) <= 0:
            return ("fastest_local_steps needs durations > 0, but some are 0; set it to null",)
        return ()

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters, at rest."""
        refuse_problems(self, public)
        zeros = params.new_zeros(params.shape)
        return State(params, zeros, zeros, 0, self._dynamic_local_steps(public))

    def _dynamic_local_steps(self, public: Public) -> tuple[int, ...]:
        if self.fastest_local_steps is None:
            return ()
        durations = [exact(t) for t in public.seconds_for_equal_work]
        budget = self.fastest_local_steps * min(durations)
        return tuple(max(1, budget // t) for t in durations)

    def plan(self, state: State, public: Public) -> Exchange:
        """A step per upload."""
        return self.exchange_of(1)

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model, and the client's number of local steps."""
        message = broadcast(state.params)
        if not state.local_steps:
            return message
        return Message(message.parts, {"local_steps": state.local_steps[client]}, message.num_bytes)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """The update itself."""
        return {"update": fixed_mean(batch, "update", state.params, 1.0)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the update and the momentum, which changes every ``delay`` uploads."""
        update, received = released["update"], state.received + 1
        momentum, collected, share = state.momentum, state.collected + update, self.activation
        if received % self.delay == 0:
            momentum = self.beta * momentum + collected / self.delay
            collected, share = collected.new_zeros(collected.shape), 1 - self.activation * self.delay + self.activation
        params = state.params + self.server_lr * (share * self.beta * momentum + update / self.delay)
        return Step(State(params, momentum, collected, received, state.local_steps))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Liu et al. 2024, Asynchronous Local-SGD Training for Language Modeling, arXiv:2401.09135",)
