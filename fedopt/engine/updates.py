"""Update batches of the engine: rows in another order, and rows made of pieces per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedopt.engine.base import ConcatUpdates, UpdateBatch
from fedopt.engine.pieces import PiecewiseUpdates
from fedopt.engine.threads import without_denormals
from fedopt.engine.transfer import rows_at


@dataclass(frozen=True)
class ReorderedUpdates:
    """A batch whose row i is row ``position[i]`` of another one, without moving any data.

    Args:
        inner: the batch as it was computed.
        position: a permutation of ``range(len(inner))``.
    """

    inner: UpdateBatch
    position: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.position)

    def _inward(self, values: torch.Tensor) -> torch.Tensor:
        return rows_at(values, np.argsort(self.position).tolist())

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sum in the order of computation."""
        with without_denormals():
            return self.inner.weighted_sum(self._inward(weights))

    def norms(self) -> torch.Tensor:
        """Row norms."""
        return rows_at(self.inner.norms(), self.position)

    def scaled(self, factors: torch.Tensor) -> ReorderedUpdates:
        """Scaled rows."""
        return ReorderedUpdates(self.inner.scaled(self._inward(factors)), self.position)

    def take(self, index: Sequence[int]) -> UpdateBatch:
        """Selected rows; all of them in order are this batch itself."""
        if list(index) == list(range(len(self))):
            return self
        return self.inner.take([self.position[i] for i in index])

    def rows(self) -> torch.Tensor:
        """All rows."""
        return rows_at(self.inner.rows(), self.position)


def add_row(batch: UpdateBatch, row: int, onto: torch.Tensor) -> None:
    """``onto += row`` in place on ``[d]``, without building the other rows where the batch can."""
    if isinstance(batch, ReorderedUpdates):
        add_row(batch.inner, batch.position[row], onto)
    elif isinstance(batch, ConcatUpdates):
        owner, inside = batch.owner(row)
        add_row(owner, inside, onto)
    elif isinstance(batch, PiecewiseUpdates):
        batch.add_row(row, onto)
    else:
        onto += batch.take([row]).rows()[0]


def with_own_inputs(batch: UpdateBatch) -> UpdateBatch:
    """The same updates without tensors that belong to others, for storing: a dual piece refers to all examples."""
    if isinstance(batch, ReorderedUpdates):
        return ReorderedUpdates(with_own_inputs(batch.inner), batch.position)
    if isinstance(batch, ConcatUpdates):
        return ConcatUpdates(tuple(with_own_inputs(piece) for piece in batch.pieces))
    return batch.with_own_inputs() if isinstance(batch, PiecewiseUpdates) else batch
