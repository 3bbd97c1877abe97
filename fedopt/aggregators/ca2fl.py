"""CA2FL: buffered asynchronous aggregation calibrated by every client's last update."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.aggregators._cache import fresh_rows, put_rows
from fedopt.aggregators._stream import Stream
from fedopt.aggregators.base import Admission, Reduced, Step, broadcast, no_bound, refuse_problems
from fedopt.types import Exchange, Message, Public, ReplyBatch, ReplyMeta

if TYPE_CHECKING:
    import torch


class State(NamedTuple):
    """State of CA2FL."""

    params: torch.Tensor  # shape [d]
    cached_mean: torch.Tensor  # h = (1/N) sum_i h_i, shape [d]
    cache: dict[int, torch.Tensor]  # h_i: last update of every client that took part, shape [d] each


class CA2FL(Stream):
    """Buffered asynchronous steps, calibrated by each client's cached last update.

    With h_i the cached update of client i (0 at first), h their mean over the population and K = ``buffer_size``::

        per upload:  A <- A + update_i - h_i;   h_i <- update_i
        per step:    params <- params + server_lr * (h + A / K);   h <- mean_i h_i;   A <- 0

    where h inside a step is the mean as it was when the buffer was opened. A client that uploads twice into one
    buffer calibrates its second update against its first.

    Guarantees: the first step is FedBuff without staleness weights. A buffer that holds every client once moves by
    the mean update, whatever the cache.

    State: one vector per client that ever took part.

    References: Wang, Cao, Wu, Chen, Chen 2024, Tackling the Data Heterogeneity in Asynchronous Federated Learning with
    Cached Update Calibration, ICLR 2024.

    Differences from the paper: rows are cached unquantised. Refused under privacy: every step reuses cached updates,
    which are further releases.
    """

    buffer_size: int = Field(10, ge=1, description="uploads K per server step, >= 1")
    server_lr: float = Field(1.0, gt=0, description="server learning rate, > 0")

    def problems(self, public: Public) -> tuple[str, ...]:
        """Not under privacy."""
        return (no_bound(self, "it reuses cached updates of single clients"),) if public.is_private else ()

    def init(self, params: torch.Tensor, public: Public) -> State:
        """Start from the given parameters with an empty cache."""
        refuse_problems(self, public)
        return State(params, params.new_zeros(params.shape), {})

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
        """``A / K``, and the new cache rows with their clients."""
        change, clients, rows = fresh_rows(batch, state.cache, state.params)
        return {"update": (change / self.buffer_size, None), "clients": (clients, None), "rows": (rows, None)}

    def step(self, state: State, released: dict[str, torch.Tensor], public: Public) -> Step:
        """Move along the calibrated update, then refresh the cache and its mean."""
        update = released["update"]
        params = state.params + self.server_lr * (state.cached_mean + update)
        cached_mean = state.cached_mean + update * (self.buffer_size / public.num_clients)
        return Step(State(params, cached_mean, put_rows(state.cache, released)))

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Wang et al. 2024, Asynchronous Federated Learning with Cached Update Calibration, ICLR 2024",)
