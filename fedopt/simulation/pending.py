"""Tasks in flight, computed or not, and what a checkpoint keeps of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fedopt.engine.base import UpdateBatch
from fedopt.engine.updates import with_own_inputs
from fedopt.protocol import Dispatch
from fedopt.types import Ticks


@dataclass
class Pending:
    """A dispatched task, computed or not."""

    dispatch: Dispatch
    arrives: tuple[Ticks, int]  # when (and in which order) its reply will be at the server
    state: dict[str, torch.Tensor] | None
    reply: Computed | None = None


@dataclass(frozen=True)
class Computed:
    """One row of a computed batch."""

    parts: dict[str, UpdateBatch]
    row: int
    state: dict[str, torch.Tensor] | None
    metrics: dict[str, torch.Tensor]  # of the whole batch, and read only when the reply is collected
    queries: int


def no_longer_uncollected(uncollected: dict[int, list[int]], client: int, dispatch_id: int) -> None:
    """A step took the reply, or it was rejected: nobody goes on from its state any more for being the last.

    Args:
        uncollected: client -> its arrived replies that no step has taken, in order; changed in place.
    """
    left = [each for each in uncollected.pop(client, []) if each != dispatch_id]
    if left:
        uncollected[client] = left


def storable(pending: dict[int, Pending]) -> dict[str, Any]:
    """Everything a checkpoint needs; rows of one computed batch stay together, since that decides the bits."""
    batches: dict[int, int] = {}
    stored: list[tuple[dict[str, UpdateBatch], dict[str, torch.Tensor]]] = []
    rows = {}
    for i, task in pending.items():
        reply = task.reply
        if reply is not None:
            marker = id(next(iter(reply.parts.values())))
            if marker not in batches:
                batches[marker] = len(stored)
                parts = {name: with_own_inputs(batch) for name, batch in reply.parts.items()}
                stored.append((parts, reply.metrics))
            rows[i] = (batches[marker], reply.row, reply.state, reply.queries)
    tasks = {i: (t.dispatch, t.arrives, t.state) for i, t in pending.items()}
    return {"batches": stored, "rows": rows, "tasks": tasks}


def restored(stored: dict[str, Any]) -> dict[int, Pending]:
    """The tasks that ``storable`` was given."""
    pending = {i: Pending(*task) for i, task in stored["tasks"].items()}
    for i, (batch, row, state, queries) in stored["rows"].items():
        parts, metrics = stored["batches"][batch]
        pending[i].reply = Computed(parts, row, state, metrics, queries)
    return pending
