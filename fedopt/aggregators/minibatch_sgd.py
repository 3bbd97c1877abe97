"""Projected mini-batch gradient descent with an averaged iterate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators.base import Admission, Method, Reduced, Step, broadcast, weighted_mean
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of mini-batch SGD."""

    params: torch.Tensor  # theta_t, shape [d]
    start: torch.Tensor  # theta_0, centre of the feasible ball, shape [d]
    average: torch.Tensor  # mean of theta_1 ... theta_t, shape [d]
    steps: int


class MinibatchSgd(Method):
    """Projected mini-batch SGD: a step along the mean update of a batch of clients; the average iterate is the result.

    ``theta <- project(theta + server_lr * mean update)``, where the ball has ``radius`` around the start. With clients
    that do one step of rate 1 (``client: {kind: sgd, lr: 1, batch_size: full, steps: 1}``) the update is minus the
    gradient.

    The two interaction patterns of shuffle-private optimisation are choices of the sampler: disjoint batches
    (``sampling: fixed`` with max_participations: 1) pay for every client once; all clients in every round (``sampling:
    all``, fully interactive, full-batch descent) compose over rounds and reach the rate of the central model.

    Guarantees: without noise, with one batch of everybody, it is projected gradient descent.

    References: Cheu, Joseph, Mao, Peng 2022, Shuffle Private Stochastic Convex Optimization, Algorithms for convex
    losses, arXiv:2106.09805.
    """

    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")
    radius: float | None = Field(None, gt=0, description="radius of the feasible ball around the start; null is none")
    average: bool = Field(True, description="evaluate and save the average iterate instead of the last one")

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters."""
        return State(params, params, params, 0)

    def plan(self, state: State, public: Public) -> Exchange:
        """One exchange per round; all of the cohort."""
        return Exchange()

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current iterate."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Mean update of the batch."""
        return {"update": weighted_mean(batch, "update", state.params, public)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move, project, average."""
        moved = _project(state.params + self.server_lr * released["update"], state.start, self.radius)
        steps = state.steps + 1
        average = state.average + (moved - state.average) / steps if state.steps else moved
        return Step(State(moved, state.start, average, steps))

    def evaluated(self, state: State) -> torch.Tensor:
        """The average iterate, or the last one."""
        return state.average if self.average else state.params

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Cheu et al. 2022, Shuffle Private Stochastic Convex Optimization, ICLR, arXiv:2106.09805",)


def _project(point: torch.Tensor, centre: torch.Tensor, radius: float | None) -> torch.Tensor:
    """Nearest point of the ball; the point itself without a radius."""
    if radius is None:
        return point
    offset = point - centre
    norm = float(offset.norm())
    return point if norm <= radius else centre + offset * (radius / norm)
