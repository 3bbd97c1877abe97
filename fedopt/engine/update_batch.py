"""The updates of a cohort as one linear object, and the two plainest forms of it.

Importing this module does not import torch, so that settings files may use its types.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class UpdateBatch(Protocol):
    """The updates of a cohort as one linear object of shape ``[rows, d]`` that need not exist as rows.

    Every operation is linear or a norm, so the dual form and secure aggregation never build rows. Only ``rows``
    does, and only robust aggregators ask for it.
    """

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """``sum_i weights[i] * row_i``, weights ``[rows]`` -> ``[d]``."""
        ...

    def norms(self) -> torch.Tensor:
        """Euclidean norm of every row ``[rows]``; not finite exactly where a row is not finite."""
        ...

    def scaled(self, factors: torch.Tensor) -> UpdateBatch:
        """Row i times ``factors[i]``."""
        ...

    def take(self, index: Sequence[int]) -> UpdateBatch:
        """A batch of some rows, in the given order."""
        ...

    def rows(self) -> torch.Tensor:
        """All rows ``[rows, d]``; may allocate."""
        ...


@dataclass(frozen=True)
class DenseUpdates:
    """Updates that exist as rows.

    Args:
        values: ``[rows, d]``.
    """

    values: torch.Tensor

    def __len__(self) -> int:
        return self.values.shape[0]

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """``weights @ values``."""
        from fedopt.engine.precision import exact_products
        from fedopt.engine.transfer import to_device

        with exact_products():
            return to_device(weights, self.values.device, self.values.dtype) @ self.values

    def norms(self) -> torch.Tensor:
        """Row norms."""
        return self.values.norm(dim=1)

    def scaled(self, factors: torch.Tensor) -> DenseUpdates:
        """Scaled copy."""
        from fedopt.engine.transfer import to_device

        return DenseUpdates(self.values * to_device(factors, self.values.device, self.values.dtype)[:, None])

    def take(self, index: Sequence[int]) -> DenseUpdates:
        """Selected rows."""
        from fedopt.engine.transfer import rows_at

        return DenseUpdates(rows_at(self.values, index))

    def rows(self) -> torch.Tensor:
        """The rows themselves."""
        return self.values


@dataclass(frozen=True)
class ConcatUpdates:
    """Several batches one after the other; sums run over the pieces in their order."""

    pieces: tuple[UpdateBatch, ...]

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    def _split(self, values: torch.Tensor) -> list[torch.Tensor]:
        return list(values.split([len(piece) for piece in self.pieces]))

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum of the pieces' weighted sums, in order; small neighbours of one form are summed in one go."""
        from fedopt.engine.sums import sum_of_small
        from fedopt.engine.threads import in_order

        if not self.pieces:
            raise ValueError("an empty batch has no weighted sum; the caller knows the dimension")
        groups = sum_of_small(self.pieces, self._split(weights))
        return functools.reduce(operator.add, in_order(lambda group: group(), groups))

    def norms(self) -> torch.Tensor:
        """Row norms of all pieces."""
        import torch

        return torch.cat([piece.norms() for piece in self.pieces])

    def scaled(self, factors: torch.Tensor) -> ConcatUpdates:
        """Scaled pieces."""
        parts = zip(self.pieces, self._split(factors), strict=True)
        return ConcatUpdates(tuple(piece.scaled(share) for piece, share in parts))

    def owner(self, row: int) -> tuple[UpdateBatch, int]:
        """The piece that holds a row, and which of its rows it is."""
        for piece in self.pieces:
            if row < len(piece):
                return piece, row
            row -= len(piece)
        raise IndexError(f"there are {len(self)} rows")

    def take(self, index: Sequence[int]) -> UpdateBatch:
        """Selected rows, in the given order, as one batch per run of rows from one piece."""
        taken: list[tuple[UpdateBatch, list[int]]] = []
        for i in index:
            owner, row = self.owner(i)
            if not taken or taken[-1][0] is not owner:
                taken.append((owner, []))
            taken[-1][1].append(row)
        return concatenated([owner.take(rows) for owner, rows in taken])

    def rows(self) -> torch.Tensor:
        """All rows."""
        import torch

        return torch.cat([piece.rows() for piece in self.pieces])


def concatenated(batches: Sequence[UpdateBatch]) -> UpdateBatch:
    """Batches one after the other, without batches inside batches."""
    flat = [piece for each in batches for piece in (each.pieces if isinstance(each, ConcatUpdates) else (each,))]
    return flat[0] if len(flat) == 1 else ConcatUpdates(tuple(flat))
