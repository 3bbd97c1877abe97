"""Last update of every client, as an immutable dictionary of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedopt.types import ReplyBatch

if TYPE_CHECKING:
    import torch


def fresh_rows(
    batch: ReplyBatch, cache: Mapping[int, torch.Tensor], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the admitted replies change in a cache whose missing rows are 0.

    Args:
        batch: admitted replies; a client's second reply replaces its first.
        cache: client -> row ``[d]`` before.
        like: gives dimension, type and device.
    Returns:
        ``sum_i (new_i - old_i)`` ``[d]``, the clients ``[k]`` int64 and their new rows ``[k, d]``.
    """
    import torch

    change = torch.zeros_like(like)
    last: dict[int, torch.Tensor] = {}
    for meta, row in zip(batch.metas, batch.part("update").rows() if batch.metas else (), strict=True):
        old = last.get(meta.client, cache.get(meta.client))
        change = change + (row if old is None else row - old)
        last[meta.client] = row
    rows = torch.stack(list(last.values())) if last else like.new_zeros((0, *like.shape))
    return change, torch.tensor(list(last), dtype=torch.int64), rows


def put_rows(cache: Mapping[int, torch.Tensor], released: Mapping[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    """The cache with the rows that ``fresh_rows`` found; every row owns its memory."""
    fresh = {c: row.clone() for c, row in zip(released["clients"].tolist(), released["rows"], strict=True)}
    return {**cache, **fresh}
