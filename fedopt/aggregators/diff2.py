"""DIFF2: gradient descent on a running estimate made of a gradient and gradient differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import Admission, Method, Reduced, Step, fixed_mean
from fedopt.types import Bound, Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of DIFF2."""

    params: torch.Tensor  # x_(r-1), shape [d]
    previous: torch.Tensor  # x_(r-2), the point of the last estimate, shape [d]
    estimate: torch.Tensor  # v_(r-1), shape [d]
    since_restart: int  # rounds since the last restart; 0: the coming round is one


class Diff2(Method):
    """DIFF2: restart with a full gradient every T rounds, add clipped gradient differences in between.

    ``v_r = gradient(x_(r-1))`` at a restart, else ``v_r = v_(r-1) + [gradient(x_(r-1)) - gradient(x_(r-2))]``;
    ``x_r = x_(r-1) - server_lr * v_r``. Clients (``gradient_difference``) send the difference over the distance of the
    two points; it is multiplied by ``|x_(r-1) - x_(r-2)|`` here, so its noise shrinks with the step.

    Guarantees: T = 1 is gradient descent. Without noise and clipping v_r is the exact gradient for every T. A round in
    which a client is lost is followed by a restart, since the missing difference would stay in v; a restart with losses
    averages over those that arrived.

    References: Murata and Suzuki 2023, DIFF2, Algorithm 1 with the GD routine, arXiv:2302.03884.
    """

    restart_every: int = Field(10, ge=1, description="rounds T between full gradients; 1 is gradient descent")
    server_lr: float = Field(0.1, gt=0, description="step size eta")

    def reply_parts(self) -> tuple[str, ...]:
        """A gradient, or a difference over its distance."""
        return ("gradient", "slope")

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start with a restart."""
        return State(params, params, params.new_zeros(params.shape), 0)

    def plan(self, state: State | None, public: Public) -> Exchange:
        """One exchange per round, named after what is asked for."""
        restart = state is None or state.since_restart == 0
        return Exchange(phase="restart" if restart else "difference")

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """Both points in difference rounds (clients that kept the last one need only the new one: d floats)."""
        restart = state.since_restart == 0
        parts = {"params": state.params} if restart else {"params": state.params, "previous": state.previous}
        return Message(parts, {"restart": restart}, 4 * state.params.numel() * len(parts))

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean over all clients of the asked part, and how many arrived (public: the unit is an example)."""
        part = "gradient" if state.since_restart == 0 else "slope"
        count = state.params.new_full((1,), float(len(batch.metas)))
        return {
            part: fixed_mean(batch, part, state.params, float(public.num_clients)),
            "replies": (count, Bound(0.0, 0.0, 0.0)),
        }

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Update the estimate, move against it."""
        arrived = int(released["replies"])
        if state.since_restart == 0:
            estimate = released["gradient"] * (public.num_clients / max(1, arrived))
        else:
            distance = (state.params - state.previous).norm()
            estimate = state.estimate + released["slope"] * distance
        complete = arrived == public.num_clients
        rounds = (state.since_restart + 1) % self.restart_every if complete else 0
        moved = state.params - self.server_lr * estimate if arrived else state.params
        return Step(State(moved, state.params, estimate, rounds))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Murata and Suzuki 2023, DIFF2: Differential Private Optimization, ICML, arXiv:2302.03884",)
