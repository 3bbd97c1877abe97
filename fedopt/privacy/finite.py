"""Replies under privacy are always finite: one that is not becomes zero before it is clipped and noised.

A reply that is dropped shows, with no noise on it, what one record did: that there was a NaN. So whether a reply
exists, and how many do, must never depend on private data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedopt.engine.base import UpdateBatch


def zero_rows(parts: Mapping[str, UpdateBatch], finite: Sequence[bool]) -> dict[str, UpdateBatch]:
    """Parts whose rows are all zeros, in every part, where ``finite [rows]`` says no; the same batches if all are.

    Args:
        parts: of the replies.
        finite: whether a row's numbers, and its norm, are finite in every part.
    """
    import torch

    from fedopt.engine.base import DenseUpdates
    from fedopt.engine.transfer import to_device

    if all(finite):
        return dict(parts)
    made: dict[str, UpdateBatch] = {}
    for name, batch in parts.items():
        rows = batch.rows()
        lost = ~to_device(list(finite), rows.device, torch.bool)
        made[name] = DenseUpdates(rows.masked_fill(lost[:, None], 0.0))
    return made
