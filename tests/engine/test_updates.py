"""One row of a batch, built without the others."""

from __future__ import annotations

import pytest
import torch

from fedopt.engine.base import ConcatUpdates, DenseUpdates, UpdateBatch
from fedopt.engine.pieces import DensePiece, DualPiece, PiecewiseUpdates
from fedopt.engine.updates import ReorderedUpdates, add_row


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def piecewise(rows: int, shifted: bool) -> PiecewiseUpdates:
    """A weight [3, 4] in dual form from two starts, and five more columns."""
    index = torch.arange(rows * 6).view(rows, 6) % 7
    shift = draw(rows) if shifted else None
    start_of = torch.arange(rows) % 2
    dual = DualPiece(
        draw(7, 4), index, draw(rows, 6, 3), shift, draw(2, 3, 4), start_of, torch.zeros(rows), (6,) * rows
    )
    return PiecewiseUpdates((dual, DensePiece(draw(rows, 5))), rows)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_row_added_alone_is_that_of_all_rows(shifted: bool) -> None:
    inner = ConcatUpdates((piecewise(3, shifted), DenseUpdates(draw(2, 17)), piecewise(1, shifted)))
    batch: UpdateBatch = ReorderedUpdates(inner, (4, 0, 5, 2, 1, 3))
    expected, start = batch.rows(), draw(17)
    for row in range(6):
        onto = start.clone()
        add_row(batch, row, onto)
        torch.testing.assert_close(onto, start + expected[row])


def test_there_is_no_row_behind_the_last() -> None:
    batch = ConcatUpdates((DenseUpdates(torch.zeros(2, 3)), DenseUpdates(torch.zeros(1, 3))))
    with pytest.raises(IndexError, match="there are 3 rows"):
        add_row(batch, 3, torch.zeros(3))
