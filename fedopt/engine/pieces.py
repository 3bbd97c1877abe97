"""Updates made of one piece per group of parameters, some of them never built as rows (the dual form)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from fedopt.engine.precision import exact_products
from fedopt.engine.transfer import rows_at, to_device


class Piece(Protocol):
    """Columns of an update batch: like ``UpdateBatch``, with squared norms that add up over pieces."""

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        ...

    @property
    def columns(self) -> int:
        """How many there are."""
        ...

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """``[rows] -> [columns]``."""
        ...

    def squared_norms(self) -> torch.Tensor:
        """``[rows]``."""
        ...

    def scaled(self, factors: torch.Tensor) -> Piece:
        """Row i times ``factors[i]``."""
        ...

    def take(self, index: list[int]) -> Piece:
        """Some rows."""
        ...

    def rows(self) -> torch.Tensor:
        """``[rows, columns]``."""
        ...

    def add_row(self, row: int, onto: torch.Tensor) -> None:
        """``onto += row``, in place on ``[columns]``; no other row is built."""
        ...


@dataclass(frozen=True)
class DensePiece:
    """Columns that exist as rows ``[rows, columns]``."""

    values: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Of the values."""
        return self.values.device

    @property
    def columns(self) -> int:
        """Of the values."""
        return self.values.shape[1]

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """``weights @ values``."""
        return weights @ self.values

    def squared_norms(self) -> torch.Tensor:
        """Sums of squares."""
        return torch.linalg.vector_norm(self.values, dim=1).square()

    def scaled(self, factors: torch.Tensor) -> DensePiece:
        """Scaled copy."""
        return DensePiece(self.values * factors[:, None])

    def take(self, index: list[int]) -> DensePiece:
        """Selected rows."""
        return DensePiece(rows_at(self.values, index))

    def rows(self) -> torch.Tensor:
        """The values."""
        return self.values

    def add_row(self, row: int, onto: torch.Tensor) -> None:
        """Add the row."""
        onto += self.values[row]


@dataclass(frozen=True)
class DualPiece:
    """A linear layer's weight update ``shift_r * W_0 + sum_k coefficients[r, k] outer inputs[index[r, k]]``.

    The weight is ``[out, in]``; the rows of this piece are its flat form. Nothing of that size exists per row.

    Args:
        inputs: examples or activations ``[n, in]``, shared by all rows and never copied.
        index: which inputs each row used ``[rows, slots]``.
        coefficients: ``[rows, slots, out]``; zero where a slot is padding.
        shift: ``[rows]``, or None for zero (without weight decay and proximal term it is).
        starts: distinct starting weights ``[k, out, in]`` with ``start_of [rows]``; used where shift is not None.
        squares: squared norm of every row ``[rows]``, from Gram matrices.
    """

    inputs: torch.Tensor
    index: torch.Tensor
    coefficients: torch.Tensor
    shift: torch.Tensor | None
    starts: torch.Tensor
    start_of: torch.Tensor
    squares: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Of the coefficients."""
        return self.coefficients.device

    @property
    def columns(self) -> int:
        """Entries of the weight."""
        return self.starts[0].numel()

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """One product over all rows and slots: ``(w * C)^T X``."""
        scaled = (self.coefficients * weights[:, None, None]).flatten(0, 1)
        total = scaled.T @ self.inputs.index_select(0, self.index.flatten())
        if self.shift is not None:
            moved = weights * self.shift
            # Not index_add_: on a GPU its sums depend on which thread comes first.
            shares = torch.stack([(moved * (self.start_of == k)).sum() for k in range(len(self.starts))])
            total += torch.tensordot(shares, self.starts, 1)
        return total.flatten()

    def squared_norms(self) -> torch.Tensor:
        """As computed during training."""
        return self.squares

    def scaled(self, factors: torch.Tensor) -> DualPiece:
        """Scaled coefficients."""
        shift = None if self.shift is None else self.shift * factors
        return replace(
            self,
            coefficients=self.coefficients * factors[:, None, None],
            shift=shift,
            squares=self.squares * factors.square(),
        )

    def take(self, index: list[int]) -> DualPiece:
        """Selected rows."""
        return replace(
            self,
            index=rows_at(self.index, index),
            coefficients=rows_at(self.coefficients, index),
            shift=None if self.shift is None else rows_at(self.shift, index),
            start_of=rows_at(self.start_of, index),
            squares=rows_at(self.squares, index),
        )

    def rows(self) -> torch.Tensor:
        """Build every row."""
        built = torch.bmm(self.coefficients.transpose(1, 2), self.inputs[self.index])
        if self.shift is not None:
            built += self.shift[:, None, None] * self.starts[self.start_of]
        return built.flatten(1)

    def add_row(self, row: int, onto: torch.Tensor) -> None:
        """One product, accumulated where it is wanted."""
        weight = onto.view(self.starts.shape[1:])
        if self.shift is not None:
            weight += self.shift[row] * self.starts[self.start_of[row]]
        weight.addmm_(self.coefficients[row].T, self.inputs.index_select(0, self.index[row]))


@dataclass(frozen=True)
class PiecewiseUpdates:
    """An update batch whose columns are the concatenation of its pieces' columns, in the spec's order."""

    pieces: tuple[Piece, ...]
    count: int

    def __len__(self) -> int:
        return self.count

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum of every piece."""
        moved = to_device(weights, self.pieces[0].device, torch.float32)
        with exact_products():
            return torch.cat([piece.weighted_sum(moved) for piece in self.pieces])

    def norms(self) -> torch.Tensor:
        """Row norms from the squared norms of the pieces."""
        return torch.stack([piece.squared_norms() for piece in self.pieces]).sum(0).clamp_min(0.0).sqrt()

    def scaled(self, factors: torch.Tensor) -> PiecewiseUpdates:
        """Scaled pieces."""
        moved = to_device(factors, self.pieces[0].device, torch.float32)
        return PiecewiseUpdates(tuple(piece.scaled(moved) for piece in self.pieces), self.count)

    def take(self, index: Sequence[int]) -> PiecewiseUpdates:
        """Selected rows; all of them in order are this batch itself."""
        chosen = list(index)
        if chosen == list(range(self.count)):
            return self
        return PiecewiseUpdates(tuple(piece.take(chosen) for piece in self.pieces), len(chosen))

    def rows(self) -> torch.Tensor:
        """All rows ``[rows, d]``."""
        with exact_products():
            return torch.cat([piece.rows() for piece in self.pieces], dim=1)

    def add_row(self, row: int, onto: torch.Tensor) -> None:
        """Add row ``row`` to ``onto [d]`` in place."""
        begin = 0
        with exact_products():
            for piece in self.pieces:
                piece.add_row(row, onto[begin : begin + piece.columns])
                begin += piece.columns
