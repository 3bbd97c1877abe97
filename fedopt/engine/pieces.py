"""Updates made of one piece per group of parameters, some of them never built as rows (the dual form)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from fedopt.engine.precision import exact_products
from fedopt.engine.transfer import to_device


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

    def take(self, index: list[int], where: torch.Tensor) -> Piece:
        """Some rows; ``where`` is the index on the device."""
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

    def take(self, index: list[int], where: torch.Tensor) -> DensePiece:
        """Selected rows."""
        return DensePiece(self.values.index_select(0, where))

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
        used: slots of every row, the first ones; the rest is padding.
    """

    inputs: torch.Tensor
    index: torch.Tensor
    coefficients: torch.Tensor
    shift: torch.Tensor | None
    starts: torch.Tensor
    start_of: torch.Tensor
    squares: torch.Tensor
    used: tuple[int, ...]

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
        total = self.scaled_coefficients(weights).T @ self.seen()
        return self.plus_shifts(total, weights).flatten()

    def scaled_coefficients(self, weights: torch.Tensor) -> torch.Tensor:
        """``w * C`` of all rows and slots ``[rows * slots, out]``."""
        return (self.coefficients * weights[:, None, None]).flatten(0, 1)

    def seen(self) -> torch.Tensor:
        """Inputs of all rows and slots ``[rows * slots, in]``."""
        return self.inputs.index_select(0, self.index.flatten())

    def plus_shifts(self, total: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Add the rows' shares of their starts to ``[out, in]``."""
        if self.shift is None:
            return total
        moved = weights * self.shift
        # Not index_add_: on a GPU its sums depend on which thread comes first.
        shares = torch.stack([(moved * (self.start_of == k)).sum() for k in range(len(self.starts))])
        return total.add_(torch.tensordot(shares, self.starts, 1))

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

    def take(self, index: list[int], where: torch.Tensor) -> DualPiece:
        """Selected rows, without slots that are padding in all of them."""
        used = tuple(self.used[row] for row in index)
        most = max(used, default=0)
        return replace(
            self,
            index=self.index[:, :most].index_select(0, where),
            coefficients=self.coefficients[:, :most].index_select(0, where),
            shift=None if self.shift is None else self.shift.index_select(0, where),
            start_of=self.start_of.index_select(0, where),
            squares=self.squares.index_select(0, where),
            used=used,
        )

    def with_own_inputs(self) -> DualPiece:
        """The same piece without what belongs to others: inputs that it uses, and no more of them."""
        if len(self.inputs) <= self.index.numel():
            return self
        own = torch.arange(self.index.numel(), device=self.device).view(self.index.shape)
        return replace(self, inputs=self.seen(), index=own)

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
        where = to_device(chosen, self.pieces[0].device, torch.int64)
        return PiecewiseUpdates(tuple(piece.take(chosen, where) for piece in self.pieces), len(chosen))

    def with_own_inputs(self) -> PiecewiseUpdates:
        """The same updates without tensors that belong to others (all training examples): for storing."""
        return PiecewiseUpdates(
            tuple(piece.with_own_inputs() if isinstance(piece, DualPiece) else piece for piece in self.pieces),
            self.count,
        )

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
