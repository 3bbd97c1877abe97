"""Accelerated gradient descent on mini-batches of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import Admission, Method, Reduced, Step, broadcast, weighted_mean
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of accelerated gradient descent."""

    params: torch.Tensor  # the point clients compute at, theta_md, shape [d]
    aggregate: torch.Tensor  # theta_ag, the result, shape [d]
    mirror: torch.Tensor  # theta, shape [d]
    start: torch.Tensor  # centre of the feasible ball, shape [d]
    steps: int


class AcceleratedGradient(Method):
    """Accelerated mini-batch gradient descent for smooth convex losses (Lan's form), three sequences.

    With ``a_t = 2 / (t + 2)`` and ``eta_t = (t + 1) server_lr / 2`` for t = 0, 1, ...::

        theta_md = (1 - a_t) theta_ag + a_t theta           clients reply with minus the gradient here
        theta    <- project(theta + eta_t * mean update)
        theta_ag <- (1 - a_t) theta_ag + a_t theta

    Evaluated and saved is theta_ag. ``server_lr`` at most 1 / (2 smoothness).

    Guarantees: without noise on a smooth convex function the error falls like 1 / t^2.

    References: Cheu, Joseph, Mao, Peng 2022, Shuffle Private Stochastic Convex Optimization, arXiv:2106.09805 (disjoint
    batches: ``sampling: fixed``, max_participations: 1); Lan 2012, An Optimal Method for Stochastic Composite
    Optimization, Mathematical Programming 133.
    """

    server_lr: float = Field(0.1, gt=0, description="eta, at most 1 / (2 smoothness) with clients of rate 1")
    radius: float | None = Field(None, gt=0, description="radius of the feasible ball around the start; null is none")

    def init(self, params: torch.Tensor, public: Public) -> State:
        """All sequences start at the given parameters."""
        return State(params, params, params, params, 0)

    def plan(self, state: State, public: Public) -> Exchange:
        """One exchange per round; all of the cohort."""
        return Exchange()

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """theta_md."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean update of the batch."""
        return {"update": weighted_mean(batch, "update", state.params, public)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move the mirror sequence, mix."""
        t = state.steps
        share, rate = 2 / (t + 2), (t + 1) * self.server_lr / 2
        mirror = _project(state.mirror + rate * released["update"], state.start, self.radius)
        aggregate = (1 - share) * state.aggregate + share * mirror
        following = 2 / (t + 3)
        point = (1 - following) * aggregate + following * mirror
        return Step(State(point, aggregate, mirror, state.start, t + 1))

    def evaluated(self, state: State) -> torch.Tensor:
        """theta_ag."""
        return state.aggregate

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Cheu et al. 2022, Shuffle Private Stochastic Convex Optimization, ICLR, arXiv:2106.09805",
            "Lan 2012, An Optimal Method for Stochastic Composite Optimization, Math. Program. 133",
        )


def _project(point: torch.Tensor, centre: torch.Tensor, radius: float | None) -> torch.Tensor:
    """Nearest point of the ball; the point itself without a radius."""
    if radius is None:
        return point
    offset = point - centre
    norm = float(offset.norm())
    return point if norm <= radius else centre + offset * (radius / norm)
