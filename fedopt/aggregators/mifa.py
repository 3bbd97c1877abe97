"""MIFA: averaging over everybody's last update, present or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators._cache import fresh_rows, put_rows
from fedopt.aggregators._corrections import exact
from fedopt.aggregators.base import Admission, Method, Reduced, Step, broadcast, no_bound, refuse_problems
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of MIFA."""

    params: torch.Tensor  # shape [d]
    cached_sum: torch.Tensor  # sum of the cache's rows, shape [d]
    cache: dict[int, torch.Tensor]  # last update of every client that took part, shape [d] each


class MIFA(Method):
    """Averaging over every client's last update, so that absent clients still count.

    Active clients refresh their cached update h_i; then
    ``params <- params + server_lr * (1/N) sum_{all i} h_i``, once a fraction ``start_fraction`` of the population has
    reported. Until then the model stays and the cache fills.

    Guarantees: full participation is FedAvg with uniform weights. The order of clients does not matter.

    State: one vector per client that ever took part.

    References: Gu, Huang, Zhang, Huang 2021, Fast Federated Learning in the Presence of Arbitrary Device
    Unavailability, arXiv:2106.04159.

    Differences from the paper: 1. The mean is over the clients that have reported, which is everybody with
    ``start_fraction = 1``. 2. The cache holds updates as they arrived (the paper's times that round's rate): with a
    falling client learning rate old entries keep their old rate. 3. Refused under privacy: every step reuses cached
    updates, which are further releases.
    """

    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")
    start_fraction: float = Field(
        1.0, ge=0, le=1, description="fraction of the population that must have reported before the model moves"
    )

    def problems(self, public: Public) -> tuple[str, ...]:
        """Not under privacy."""
        return (no_bound(self, "it reuses cached updates of single clients"),) if public.is_private else ()

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters with an empty cache."""
        refuse_problems(self, public)
        return State(params, params.new_zeros(params.shape), {})

    def plan(self, state: State, public: Public) -> Exchange:
        """One exchange per round; all of the cohort."""
        return Exchange()

    def payload(self, state: State, client: int, last_version: int | None) -> Message:
        """The current model."""
        return broadcast(state.params)

    def admit(self, state: State, meta: ReplyMeta, public: Public) -> Admission:
        """Weight 1."""
        return 1.0

    def reduce(self, state: State, batch: ReplyBatch, public: Public) -> Reduced:
        """Change of the cache's sum, and the new rows with their clients."""
        change, clients, rows = fresh_rows(batch, state.cache, state.params)
        return {"update": (change, None), "clients": (clients, None), "rows": (rows, None)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Refresh the cache; move along its mean once enough clients have reported."""
        cache, total = put_rows(state.cache, released), state.cached_sum + released["update"]
        params = state.params
        if cache and len(cache) >= exact(self.start_fraction) * public.num_clients:
            params = params + self.server_lr * (total / len(cache))
        return Step(State(params, total, cache))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Gu et al. 2021, Fast Federated Learning under Arbitrary Device Unavailability, arXiv:2106.04159",)
