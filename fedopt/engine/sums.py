"""Weighted sums over many small batches of updates in few products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from fedopt.engine.pieces import DualPiece, PiecewiseUpdates
from fedopt.engine.precision import exact_products
from fedopt.engine.transfer import to_device
from fedopt.engine.update_batch import UpdateBatch

TOGETHER = 16  # rows that are summed in one product


def summed_together(batches: Sequence[PiecewiseUpdates], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weighted sum over several batches ``[d]``: one product per layer instead of one per batch and layer.

    Args:
        batches: of one model, with the same form of every layer.
        weights: ``[rows]`` for each.
    """
    device = batches[0].pieces[0].device
    shares = [to_device(each, device, torch.float32) for each in weights]
    found = []
    with exact_products():
        for pieces in zip(*(batch.pieces for batch in batches), strict=True):
            pairs = list(zip(pieces, shares, strict=True))
            if isinstance(pieces[0], DualPiece):
                coefficients = torch.cat([piece.scaled_coefficients(share) for piece, share in pairs])
                total = coefficients.T @ torch.cat([piece.seen() for piece in pieces])
                for piece, share in pairs:
                    total = piece.plus_shifts(total, share)
                found.append(total.flatten())
            else:
                found.append(torch.cat(shares) @ torch.cat([piece.rows() for piece in pieces]))
        return torch.cat(found)


def sum_of_small(batches: Sequence[UpdateBatch], weights: Sequence[torch.Tensor]) -> list[Callable[[], torch.Tensor]]:
    """Calls that sum neighbouring batches, together where they are small and of one form.

    A buffered method collects a row here and two there; a product for each would write the whole model every time.
    """
    groups: list[list[int]] = []
    rows, form = 0, None
    for place, batch in enumerate(batches):
        own = tuple(map(type, batch.pieces)) if isinstance(batch, PiecewiseUpdates) else None
        if not groups or own is None or own != form or rows + len(batch) > TOGETHER:
            groups.append([])
            rows, form = 0, own
        groups[-1].append(place)
        rows += len(batch)
    return [partial(_summed, [batches[i] for i in group], [weights[i] for i in group]) for group in groups]


def _summed(batches: list[Any], weights: list[torch.Tensor]) -> torch.Tensor:
    if len(batches) == 1:
        return batches[0].weighted_sum(weights[0])  # type: ignore[no-any-return]
    return summed_together(batches, weights)
