"""Query logs of a cohort: every point a client asked about and the value it got, as growing tensors.

Rows are clients. The log never leaves the client; the simulator keeps all of them in one tensor so that all
clients fit their surrogates in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class QueryLog(NamedTuple):
    """Logged queries. Only the first ``counts[i]`` rows of client i are filled."""

    points: torch.Tensor  # shape [clients, capacity, d]
    values: torch.Tensor  # shape [clients, capacity]
    norms: torch.Tensor  # shape [clients, capacity]: squared lengths of the points
    counts: torch.Tensor  # shape [clients], int64
    longest: int  # largest count, known without asking the device

    def rows(self, clients: torch.Tensor) -> QueryLog:
        """A copy with the logs of some clients, for a partial cohort."""
        return self._replace(
            points=self.points[clients], values=self.values[clients], norms=self.norms[clients],
            counts=self.counts[clients],
        )  # fmt: skip


class Window(NamedTuple):
    """Logged queries nearest to a point of each client."""

    points: torch.Tensor  # shape [clients, n, d]
    values: torch.Tensor  # shape [clients, n]
    mask: torch.Tensor  # shape [clients, n], bool: False where the log was shorter


def empty(
    clients: int, dimension: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> QueryLog:
    """A log without queries."""
    points = torch.zeros(clients, 0, dimension, device=device, dtype=dtype)
    values = points.new_zeros(clients, 0)
    return QueryLog(points, values, values.clone(), torch.zeros(clients, dtype=torch.int64, device=device), 0)


def stack(
    rows: Sequence[tuple[torch.Tensor, torch.Tensor]], dimension: int, device: torch.device | str = "cpu"
) -> QueryLog:
    """One log from (points ``[n_i, d]``, values ``[n_i]``) of every client, padded to the longest; float64."""
    sizes = [len(values) for _, values in rows]
    longest = max(sizes, default=0)
    points = torch.zeros(len(rows), longest, dimension, device=device, dtype=torch.float64)
    made = points.new_zeros(len(rows), longest)
    for row, ((where, what), size) in enumerate(zip(rows, sizes, strict=True)):
        if size:
            points[row, :size], made[row, :size] = where, what
    counts = torch.tensor(sizes, dtype=torch.int64, device=device)
    return QueryLog(points, made, points.square().sum(-1), counts, longest)


def append(log: QueryLog, points: torch.Tensor, values: torch.Tensor) -> QueryLog:
    """The log with ``points`` ``[clients, k, d]`` and ``values`` ``[clients, k]`` added.

    Writes into the free tail of the given tensors, doubling them when full: use the returned log, and `rows` to
    fork one.
    """
    added = points.shape[1]
    grown = _reserve(log, log.longest + added)
    places = log.counts[:, None] + torch.arange(added, device=log.counts.device)
    clients = torch.arange(len(places), device=places.device)[:, None]
    grown.points[clients, places] = points
    grown.values[clients, places] = values
    grown.norms[clients, places] = points.square().sum(-1)
    return grown._replace(counts=log.counts + added, longest=log.longest + added)


def nearest(log: QueryLog, centre: torch.Tensor, size: int | None) -> Window:
    """The ``size`` logged queries nearest (Euclidean) to ``centre`` ``[clients, d]``; None: the whole log.

    Raises:
        ValueError: nothing is logged yet.
    """
    if log.longest == 0:
        raise ValueError("no query is logged yet; query the starting point before fitting a surrogate")
    points, values, norms = (t[:, : log.longest] for t in (log.points, log.values, log.norms))
    filled = torch.arange(log.longest, device=values.device) < log.counts[:, None]
    if size is None or size >= log.longest:
        return Window(points, values, filled)
    # |centre|^2 is the same for all points of a client, so it does not change the order.
    distance = (norms - 2 * torch.bmm(points, centre[..., None]).squeeze(-1)).masked_fill(~filled, torch.inf)
    chosen = distance.topk(size, largest=False).indices
    clients = torch.arange(len(chosen), device=chosen.device)[:, None]
    return Window(points[clients, chosen], values[clients, chosen], filled[clients, chosen])


def finite(log: QueryLog) -> torch.Tensor:
    """Whether all values of a client are finite and so near to each other that they can be scaled: ``[clients]`` bool;
    False for a client without any.
    """
    values = log.values[:, : log.longest]
    empty = torch.arange(log.longest, device=values.device) >= log.counts[:, None]
    return (values.masked_fill(empty, -torch.inf).amax(1) - values.masked_fill(empty, torch.inf).amin(1)).isfinite()


def _reserve(log: QueryLog, needed: int) -> QueryLog:
    capacity = log.values.shape[1]
    if needed <= capacity:
        return log
    extra = max(needed, 2 * capacity) - capacity
    padding = log.points.new_zeros(len(log.counts), extra, log.points.shape[2])
    flat = padding.new_zeros(len(log.counts), extra)
    return log._replace(
        points=torch.cat((log.points, padding), 1), values=torch.cat((log.values, flat), 1),
        norms=torch.cat((log.norms, flat), 1),
    )  # fmt: skip
