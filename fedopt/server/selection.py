"""Which of the ready clients may start."""

from __future__ import annotations

import numpy as np

from fedopt.sampling.base import Ready
from fedopt.server.state import ServerState

FEW = 64  # up to this many clients are asked about one by one


class Selectable:
    """Ready clients that are idle and have participations left."""

    def __init__(self, ready: Ready, state: ServerState, limit: int | None):
        self.num_clients = ready.num_clients
        self._ready, self._state, self._limit = ready, state, limit
        exchange = state.exchange
        # A client whose reply waits for a timed step idles until then.
        self._idle_until_step = exchange.pacing == "stream" and exchange.restart == "at_step"

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        mask = np.array(self._ready.is_ready(clients), dtype=bool)
        if len(clients) <= FEW:
            for position in np.flatnonzero(mask):
                mask[position] = not self._is_barred(int(clients[position]))
            return mask
        barred = self._barred()
        return mask & ~np.isin(clients, list(barred)) if barred else mask

    def anybody(self) -> bool:
        """Whether any client may start."""
        return bool(self.is_ready(np.arange(self.num_clients, dtype=np.int64)).any())

    def _is_barred(self, client: int) -> bool:
        state, limit = self._state, self._limit
        idle = self._idle_until_step and client in state.waiting
        # The budget is asked at every step for one more reply of each: nobody pays twice in between.
        if client in state.busy or idle or client in state.paid_since_step:
            return True
        return limit is not None and self._used(client) >= limit

    def _barred(self) -> set[int]:
        """Everybody ``_is_barred`` holds for: found among those at work, and with a limit those that took part."""
        state, limit = self._state, self._limit
        barred = state.busy.keys() | state.paid_since_step
        if self._idle_until_step:
            barred |= state.waiting.keys()
        if limit is not None:
            known = state.participations.keys() | state.waiting.keys() | state.paid.keys()
            barred |= {client for client in known if self._used(client) >= limit}
        return barred

    def _used(self, client: int) -> int:
        """The client's contributions: released and waiting, or paid for and rejected where those are more."""
        state = self._state
        released = state.participations.get(client, 0) + state.waiting.get(client, 0)
        return max(released, state.paid.get(client, 0))
