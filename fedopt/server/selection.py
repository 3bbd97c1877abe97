"""Which of the ready clients may start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from fedopt.sampling.base import Ready
from fedopt.server.state import ServerState


class Selectable:
    """Ready clients that are idle and have participations left."""

    def __init__(self, ready: Ready, state: ServerState, limit: int | None):
        self.num_clients = ready.num_clients
        self._ready, self._state, self._limit = ready, state, limit
        self._waiting = Counter(flight.client for flight in state.arrived.values())
        exchange = state.exchange
        # A client whose reply waits for a timed step idles until then.
        self._idle_until_step = exchange.pacing == "stream" and exchange.restart == "at_step"

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        mask = np.array(self._ready.is_ready(clients), dtype=bool)
        state = self._state
        known: tuple[Collection[int], ...] = (
            state.busy, state.paid_since_step, self._waiting, state.participations, state.paid
        )  # fmt: skip
        if len(clients) <= sum(map(len, known)):
            for position in np.flatnonzero(mask):
                mask[position] = not self._is_barred(int(clients[position]))
            return mask
        # Of a large population only those that ever took part can be barred.
        barred = [client for client in set().union(*known) if self._is_barred(client)]
        return mask & ~np.isin(clients, barred) if barred else mask

    def _is_barred(self, client: int) -> bool:
        state = self._state
        idle = self._idle_until_step and self._waiting[client] > 0
        # The budget is asked at every step for one more reply of each: nobody pays twice in between.
        return client in state.busy or idle or client in state.paid_since_step or self._used_up(client)

    def _used_up(self, client: int) -> bool:
        """Whether the client's contributions, released and waiting or paid for and rejected, reach the limit."""
        if self._limit is None:
            return False
        released = self._state.participations.get(client, 0) + self._waiting[client]
        return max(released, self._state.paid.get(client, 0)) >= self._limit
