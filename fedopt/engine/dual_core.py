"""The dual form of a linear layer: no client ever owns a copy of the weight.

SGD moves a linear layer by outer products of its inputs, so after any number of steps
``W = keep * W_0 + X^T C`` with the inputs seen so far X ``[slots, in]`` and small coefficients C ``[slots, out]``. Then
``x W = keep * x W_0 + (x X^T) C``: one product with the shared W_0 for all clients, one Gram matrix per client. The
momentum buffer has the same form ``pull * W_0 + X^T U``. With total gradient
``X^T (D + (decay + mu) C) + ((decay + mu) * keep - mu) W_0`` every recursion of the local rule is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left

import torch
from torch import nn

from fedopt.engine.base import LocalRule
from fedopt.engine.pieces import DensePiece, DualPiece, Piece
from fedopt.engine.precision import exact_products, products_are_exact
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.tasks import Chunk
from fedopt.engine.transfer import to_device

ROUNDING = 5e-7  # relative error of a float32 sum of a few hundred products


class DualLayer(ABC):
    """Coefficients and their recursions; its bias is an ordinary parameter per client.

    Args:
        layer: the linear layer.
        chunk: rows to train.
        begin: offset of the weight in the flat parameters.
        slots: places for inputs per row.
        used: places that each row needs, the first ones.
        bfloat16: multiply by W_0 in bfloat16, as autocast does.
    """

    def __init__(
        self, layer: nn.Linear, chunk: Chunk, begin: int, slots: int, used: tuple[int, ...], bfloat16: bool = False
    ):
        self._used = used
        shape, split = tuple(layer.weight.shape), begin + layer.weight.numel()
        rows, device, rule = len(chunk), chunk.indices.device, chunk.rule
        weights = [start[begin:split].view(shape) for start in chunk.starts]
        self._starts = weights[0][None] if len(weights) == 1 else torch.stack(weights)  # one start is not copied
        self._lowered = self._starts.bfloat16() if bfloat16 else None
        self._start_of = chunk.start_index
        self._rows_of = _rows_by_start(chunk)
        self.bias = None
        if layer.bias is not None:
            self.bias = RowsParameter(chunk, split, split + shape[0], (shape[0],))
        self._coefficients = torch.zeros(rows, slots, shape[0], device=device)
        self._buffer = torch.zeros_like(self._coefficients) if rule.momentum else None
        shifts = rule.weight_decay or rule.proximal
        self._keep = torch.ones(rows, device=device) if shifts else None
        self._pull = torch.zeros(rows, device=device) if shifts and rule.momentum else None
        self._gradient = torch.empty(0)

    @staticmethod
    def supports(rule: LocalRule) -> bool:
        """Whether the recursions cover the rule."""
        return rule.gradient_clip is None and rule.correction is None and rule.example_clipping is None

    @abstractmethod
    def _add(self, target: torch.Tensor, values: torch.Tensor) -> None:
        """Add ``values [rows, batch, out]`` to ``target [rows, slots, out]`` at the slots of this step's batch."""

    @abstractmethod
    def _products(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gram matrices ``X X^T [rows, slots, slots]`` and ``X W_0 [rows, slots, out]``."""

    @abstractmethod
    def _inputs_and_index(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the inputs of the slots are: ``[n, in]`` and ``[rows, slots]``."""

    def gradients(self) -> list[tuple[RowsParameter, torch.Tensor]]:
        """The bias only: the weight has no explicit gradient."""
        return [] if self.bias is None else [(self.bias, self._gradient.sum(1))]

    def _times_starts(self, seen: torch.Tensor, transposed: bool, exact: bool = False) -> torch.Tensor:
        """``x W_0^T [rows, ., out]`` or, not transposed, ``g W_0 [rows, ., in]``: one product per distinct start."""
        starts = self._starts
        if self._lowered is not None and not exact:
            starts, seen = self._lowered, seen.bfloat16()
        weights = starts.transpose(1, 2) if transposed else starts
        if len(weights) == 1:
            return (seen @ weights[0]).float()
        product = torch.empty(*seen.shape[:2], weights.shape[2], device=seen.device)
        for weight, (mine, index) in zip(weights, self._rows_of, strict=True):
            active = index[: bisect_left(mine, len(seen))]
            product.index_copy_(0, active, (seen.index_select(0, active) @ weight).float())
        return product

    def _times(self, start: int, seen: torch.Tensor) -> torch.Tensor:
        """``x W_0^T [., out]`` for one start."""
        if self._lowered is not None:
            return (seen.bfloat16() @ self._lowered[start].T).float()
        return seen @ self._starts[start].T

    def _kept(self, product: torch.Tensor) -> torch.Tensor:
        return product if self._keep is None else product * self._keep[: len(product), None, None]

    def _plus_bias(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs if self.bias is None else outputs + self.bias.values[: len(outputs), None]

    def advance(self, context: StepContext) -> None:
        """One step of the recursions of the coefficients and of the share of W_0."""
        rows, rule = context.rows, context.rule
        rates = context.rates if isinstance(context.rates, float) else context.rates[:, None, None]
        decay = rule.weight_decay + rule.proximal
        coefficients = self._coefficients[:rows]
        if self._buffer is None:
            if self._keep is not None:
                coefficients.mul_(1.0 - rates * decay)
                self._keep[:rows] -= (decay * self._keep[:rows] - rule.proximal) * context.rates
            self._add(self._coefficients, self._gradient * -rates)
            return
        buffer = self._buffer[:rows].mul_(rule.momentum)
        self._add(self._buffer, self._gradient)
        if decay:
            buffer.add_(coefficients, alpha=decay)
        pull = self._advance_pull(context)
        if rule.nesterov:
            if decay:
                coefficients.mul_(1.0 - rates * decay)
            self._add(self._coefficients, self._gradient * -rates)
            rates = rates * rule.momentum
        coefficients.sub_(buffer * rates)
        if self._keep is not None and pull is not None:
            self._keep[:rows] -= pull * context.rates

    def _advance_pull(self, context: StepContext) -> torch.Tensor | None:
        """Momentum of the share of W_0; the direction in which that share moves."""
        if self._keep is None or self._pull is None:
            return None
        rows, rule = context.rows, context.rule
        slope = (rule.weight_decay + rule.proximal) * self._keep[:rows] - rule.proximal
        self._pull[:rows] = rule.momentum * self._pull[:rows] + slope
        return slope + rule.momentum * self._pull[:rows] if rule.nesterov else self._pull[:rows]

    def pieces(self) -> list[Piece]:
        """The weight's update in dual form, and the bias."""
        shift = None if self._keep is None else self._keep - 1.0
        inputs, index = self._inputs_and_index()
        squares = self._squares()
        weight = DualPiece(inputs, index, self._coefficients, shift, self._starts, self._start_of, squares, self._used)
        return [weight] if self.bias is None else [weight, DensePiece(self.bias.update())]

    def _squares(self) -> torch.Tensor:
        """``|X^T C + s W_0|^2 = <X X^T, C C^T> + 2 s <X W_0, C> + s^2 |W_0|^2``, in float32 whatever training uses."""
        gram, shared = self._products()
        coefficients = self._coefficients
        trained_exactly = products_are_exact() and self._lowered is None
        with exact_products():
            squares = (torch.bmm(gram, coefficients) * coefficients).sum((1, 2))
            if self._keep is not None:
                if not trained_exactly:
                    inputs, index = self._inputs_and_index()
                    shared = self._times_starts(inputs[index], transposed=True, exact=True)
                shift = self._keep - 1.0
                squares += 2.0 * shift * (shared * coefficients).sum((1, 2))
                squares += shift.square() * self._starts.square().sum((1, 2))[self._start_of]
            # Examples that nearly cancel leave rounding errors of this size (Cauchy-Schwarz, twice), and a norm for
            # clipping must not be too small.
            lengths = gram.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
            lengths = lengths * torch.linalg.vector_norm(coefficients, dim=2)
            return squares + ROUNDING * lengths.sum(1).square()


def _rows_by_start(chunk: Chunk) -> list[tuple[list[int], torch.Tensor]]:
    """Rows of every distinct start, ascending, on the host and on the device; nothing where there is one start."""
    if len(chunk.starts) == 1:
        return []
    rows: list[list[int]] = [[] for _ in chunk.starts]
    for row, start in enumerate(chunk.start_of):
        rows[start].append(row)
    device = chunk.indices.device
    return [(mine, to_device(mine, device, torch.int64)) for mine in rows]
