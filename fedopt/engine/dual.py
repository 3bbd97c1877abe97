"""The dual form of a model's first linear layer: no client ever owns a copy of the weight.

SGD moves a linear layer by outer products of its inputs, so after any number of steps
``W = keep * W_0 + X^T C`` with the client's examples X ``[slots, in]`` and small coefficients C ``[slots, out]``. Then
``x W = keep * x W_0 + (x X^T) C``: one product with the shared W_0 for all clients, one Gram matrix per client. The
momentum buffer has the same form ``pull * W_0 + X^T U``. With total gradient
``X^T (D + (decay + mu) C) + ((decay + mu) * keep - mu) W_0`` every recursion of the local rule is exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedopt.engine.base import LocalRule
from fedopt.engine.pieces import DensePiece, DualPiece, Piece
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.tasks import Chunk


class Slots:
    """Where the examples of every batch are among a row's slots.

    A pass in which no example repeats puts batch t in slots ``t*B .. (t+1)*B`` of every row, so that slices suffice;
    otherwise slots are a row's distinct examples.

    Attributes:
        index: example of every slot ``[rows, slots]``.
        positions: slot of every batch member ``[rows, steps, batch]``, or None where slices suffice.
    """

    def __init__(self, chunk: Chunk):
        rows, steps, width = chunk.indices.shape
        self.width = width
        self.positions: torch.Tensor | None = None
        self.index = chunk.indices.reshape(rows, steps * width)
        if steps > 1:
            self._share_repeats(chunk)

    def _share_repeats(self, chunk: Chunk) -> None:
        rows, steps, width = chunk.indices.shape
        flat = self.index.cpu().numpy()
        found = [np.unique(flat[row], return_inverse=True) for row in range(rows)]
        most = max(len(unique) for unique, _ in found)
        if most > 0.75 * steps * width:
            return
        index = np.zeros((rows, most), np.int64)
        positions = np.zeros((rows, steps * width), np.int64)
        for row, (unique, inverse) in enumerate(found):
            index[row, : len(unique)] = unique
            positions[row] = inverse.reshape(-1)
        device = self.index.device
        self.index = torch.from_numpy(index).to(device)
        self.positions = torch.from_numpy(positions.reshape(rows, steps, width)).to(device)


class DualLinear:
    """First layer of a chain in dual form; its bias is an ordinary parameter per client.

    Args:
        layer: the linear layer; its inputs are the examples themselves.
        chunk: rows to train.
        begin: offset of the weight in the flat parameters.
        inputs: all training examples, flattened ``[n, in]``.
    """

    def __init__(self, layer: nn.Linear, chunk: Chunk, begin: int, inputs: torch.Tensor):
        self._inputs, self._chunk, self._slots = inputs, chunk, Slots(chunk)
        shape, split = tuple(layer.weight.shape), begin + layer.weight.numel()
        self._starts = torch.stack([start[begin:split].view(shape) for start in chunk.starts])
        self._start_of = torch.tensor(chunk.start_of, device=inputs.device)
        self.bias = None
        if layer.bias is not None:
            self.bias = RowsParameter(chunk, split, split + shape[0], (shape[0],))
        seen = inputs[self._slots.index]
        self._gram = torch.bmm(seen, seen.transpose(1, 2))
        self._shared = self._times_starts(seen)
        rows, count = self._slots.index.shape
        self._coefficients = torch.zeros(rows, count, shape[0], device=inputs.device)
        self._buffer = torch.zeros_like(self._coefficients) if chunk.rule.momentum else None
        shifts = chunk.rule.weight_decay or chunk.rule.proximal
        self._keep = torch.ones(rows, device=inputs.device) if shifts else None
        self._pull = torch.zeros(rows, device=inputs.device) if shifts and chunk.rule.momentum else None

    @staticmethod
    def supports(rule: LocalRule) -> bool:
        """Whether the recursions cover the rule."""
        return rule.gradient_clip is None and rule.correction is None and rule.example_clipping is None

    def _times_starts(self, seen: torch.Tensor) -> torch.Tensor:
        """``X W_0`` of every row ``[rows, slots, out]``: one product per distinct start."""
        if len(self._starts) == 1:
            return seen @ self._starts[0].T
        product = torch.empty(*seen.shape[:2], self._starts.shape[1], device=seen.device)
        for k in range(len(self._starts)):
            mine = self._start_of == k
            product[mine] = seen[mine] @ self._starts[k].T
        return product

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """``keep * x W_0 + (x X^T) C + b``; ``inputs [rows, batch, ...]`` only says how many rows work."""
        rows, width = inputs.shape[:2]
        self._step, self._rows = step, rows
        positions = self._slots.positions
        if positions is None:
            here = slice(step * width, (step + 1) * width)
            shared, gram = self._shared[:rows, here], self._gram[:rows, here, : step * width]
            coefficients = self._coefficients[:rows, : step * width]
        else:
            at = positions[:rows, step]
            shared = _gather(self._shared[:rows], at)
            gram, coefficients = _gather(self._gram[:rows], at), self._coefficients[:rows]
        if self._keep is not None:
            shared = shared * self._keep[:rows, None, None]
        outputs = shared if step == 0 and positions is None else torch.baddbmm(shared, gram, coefficients)
        return outputs if self.bias is None else outputs + self.bias.values[:rows, None]

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Nothing is in front of this layer."""
        self._gradient = gradient
        return None

    def gradients(self) -> list[tuple[RowsParameter, torch.Tensor]]:
        """The bias only: the weight has no explicit gradient."""
        return [] if self.bias is None else [(self.bias, self._gradient.sum(1))]

    def advance(self, context: StepContext) -> None:
        """One step of the recursions of the coefficients and of the share of W_0."""
        rows, rule = self._rows, context.rule
        rates = context.rates if isinstance(context.rates, float) else context.rates[:, None, None]
        if rule.momentum == 0.0:
            if self._keep is not None:
                self._shrink(context, rates)
            self._add(self._coefficients, self._gradient * -rates)
            return
        coefficients, buffer = self._coefficients[:rows], self._buffer[:rows]  # type: ignore[index]
        decay = rule.weight_decay + rule.proximal
        buffer.mul_(rule.momentum)
        self._add(self._buffer, self._gradient)  # type: ignore[arg-type]
        if decay:
            buffer.add_(coefficients, alpha=decay)
        extra = decay * coefficients if rule.nesterov and decay else None
        pull = self._advance_pull(context)
        if rule.nesterov:
            step = buffer * (rule.momentum * rates) if isinstance(rates, float) else buffer * rule.momentum * rates
            coefficients.sub_(step)
            if extra is not None:
                coefficients.sub_(extra * rates)
            self._add(self._coefficients, self._gradient * -rates)
        else:
            coefficients.sub_(buffer * rates)
        if self._keep is not None and pull is not None:
            self._keep[:rows] -= pull * context.rates

    def _shrink(self, context: StepContext, rates: torch.Tensor | float) -> None:
        rows, rule = self._rows, context.rule
        decay = rule.weight_decay + rule.proximal
        self._coefficients[:rows].mul_(1.0 - rates * decay)
        keep = self._keep[:rows]  # type: ignore[index]
        keep.sub_((decay * keep - rule.proximal) * context.rates)

    def _advance_pull(self, context: StepContext) -> torch.Tensor | None:
        """Momentum of the share of W_0; the direction in which that share moves."""
        if self._keep is None or self._pull is None:
            return None
        rows, rule = self._rows, context.rule
        slope = (rule.weight_decay + rule.proximal) * self._keep[:rows] - rule.proximal
        self._pull[:rows] = rule.momentum * self._pull[:rows] + slope
        return slope + rule.momentum * self._pull[:rows] if rule.nesterov else self._pull[:rows]

    def _add(self, target: torch.Tensor, values: torch.Tensor) -> None:
        """Add ``values [rows, batch, out]`` at the slots of this step's batch."""
        rows, width = values.shape[:2]
        if self._slots.positions is None:
            target[:rows, self._step * width : (self._step + 1) * width].add_(values)
        else:
            at = self._slots.positions[:rows, self._step]
            target[:rows].scatter_add_(1, at[..., None].expand_as(values), values)

    def pieces(self) -> list[Piece]:
        """The weight's update in dual form, and the bias."""
        shift = None if self._keep is None else self._keep - 1.0
        weight = DualPiece(
            self._inputs, self._slots.index, self._coefficients, shift, self._starts, self._start_of, self._squares()
        )
        return [weight] if self.bias is None else [weight, DensePiece(self.bias.update())]

    def _squares(self) -> torch.Tensor:
        """``|X^T C + s W_0|^2 = <X X^T, C C^T> + 2 s <X W_0, C> + s^2 |W_0|^2``."""
        coefficients = self._coefficients
        squares = (torch.bmm(self._gram, coefficients) * coefficients).sum((1, 2))
        if self._keep is not None:
            shift = self._keep - 1.0
            squares += 2.0 * shift * (self._shared * coefficients).sum((1, 2))
            squares += shift.square() * self._starts.square().sum((1, 2))[self._start_of]
        return squares


def _gather(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return values.gather(1, at[..., None].expand(-1, -1, values.shape[2]))
