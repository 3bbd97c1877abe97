"""Dual layers: the first linear layer, whose inputs are the examples, and wide hidden ones (see ``dual_core.py``)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedopt.engine.dual_core import DualLayer
from fedopt.engine.precision import exact_products
from fedopt.engine.tasks import Chunk
from fedopt.engine.transfer import to_device

SPARSE = 0.8  # of the places used: below this, padding costs more than taking it out


class Slots:
    """Where the examples of every batch are among a row's slots.

    A pass in which no example repeats puts batch t in slots ``t*B .. (t+1)*B`` of every row, so that slices suffice;
    otherwise slots are a row's distinct examples.

    Attributes:
        index: example of every slot ``[rows, slots]``.
        positions: slot of every batch member ``[rows, steps, batch]``, or None where slices suffice.
        used: slots of every row, the first ones.
    """

    def __init__(self, chunk: Chunk):
        rows, steps, width = chunk.indices.shape
        self.width = width
        self.positions: torch.Tensor | None = None
        self.index = chunk.indices.reshape(rows, steps * width)
        self.used = tuple(count * width for count in chunk.steps)
        if steps > 1:
            self._share_repeats(chunk)

    def _share_repeats(self, chunk: Chunk) -> None:
        rows, steps, width = chunk.indices.shape
        flat = chunk.host_indices.reshape(rows, steps * width)
        ordered = np.sort(flat, axis=1)
        most = 1 + int((ordered[:, 1:] != ordered[:, :-1]).sum(1).max())
        if most > 0.75 * steps * width:
            return
        found = [np.unique(flat[row], return_inverse=True) for row in range(rows)]
        index = np.zeros((rows, most), np.int64)
        positions = np.zeros((rows, steps * width), np.int64)
        for row, (unique, inverse) in enumerate(found):
            index[row] = unique[0]  # unused slots hold the row's own, as padding does
            index[row, : len(unique)] = unique
            positions[row] = inverse.reshape(-1)
        self.used = tuple(len(unique) for unique, _ in found)
        device = self.index.device
        self.index = to_device(index, device)
        self.positions = to_device(positions.reshape(rows, steps, width), device)


class DualInput(DualLayer):
    """First layer of a chain: its inputs are known beforehand, so all products with W_0 are one.

    Args:
        layer, chunk, begin: as in ``DualLayer``.
        inputs: all training examples, flattened ``[n, in]``.
    """

    def __init__(self, layer: nn.Linear, chunk: Chunk, begin: int, inputs: torch.Tensor, bfloat16: bool = False):
        self._slots = Slots(chunk)
        rows, slots = self._slots.index.shape
        super().__init__(layer, chunk, begin, slots, self._slots.used, bfloat16)
        self._inputs, self._step = inputs, 0
        if inputs.device.type == "cpu" and sum(self._used) < SPARSE * rows * slots:
            self._multiply_used()
            return
        seen = inputs.index_select(0, self._slots.index.flatten()).view(rows, slots, -1)
        with exact_products():  # norms are made of it
            self._gram = torch.bmm(seen, seen.transpose(1, 2))
        self._shared = self._times_starts(seen, transposed=True)

    def _multiply_used(self) -> None:
        """Both products without the padding: rows of very different lengths, as asynchronous methods mix them."""
        rows, slots = self._slots.index.shape
        filled = np.flatnonzero(np.arange(slots) < np.array(self._used)[:, None])
        places = torch.from_numpy(filled)
        seen = self._inputs.index_select(0, self._slots.index.flatten().index_select(0, places))
        self._gram = torch.zeros(rows, slots, slots)
        for row, mine in enumerate(seen.split(self._used)):
            self._gram[row, : len(mine), : len(mine)] = mine @ mine.T
        self._shared = torch.zeros(rows * slots, self._starts.shape[1])
        start_of = self._start_of.index_select(0, torch.from_numpy(filled // slots))
        for start in range(len(self._starts)):
            here = torch.nonzero(start_of == start).flatten() if len(self._starts) > 1 else slice(None)
            self._shared.index_copy_(0, places[here], self._times(start, seen[here]))
        self._shared = self._shared.view(rows, slots, -1)

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """``keep * x W_0 + (x X^T) C + b``; ``inputs [rows, batch]`` only says how many rows work."""
        rows, width = inputs.shape
        self._step, positions = step, self._slots.positions
        if positions is None:
            here, before = slice(step * width, (step + 1) * width), slice(0, step * width)
            shared, gram = self._shared[:rows, here], self._gram[:rows, here, before]
            coefficients = self._coefficients[:rows, before]
        else:
            at = positions[:rows, step]
            shared, gram = _gather(self._shared[:rows], at), _gather(self._gram[:rows], at)
            coefficients = self._coefficients[:rows]
        shared = self._kept(shared)
        nothing_before = step == 0 and positions is None
        return self._plus_bias(shared if nothing_before else torch.baddbmm(shared, gram, coefficients))

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Nothing is in front of this layer."""
        self._gradient = gradient
        return None

    def _add(self, target: torch.Tensor, values: torch.Tensor) -> None:
        rows, width = values.shape[:2]
        if self._slots.positions is None:
            target[:rows, self._step * width : (self._step + 1) * width].add_(values)
        else:
            at = self._slots.positions[:rows, self._step]
            target[:rows].scatter_add_(1, at[..., None].expand_as(values), values)

    def _products(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._gram, self._shared

    def _inputs_and_index(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._inputs, self._slots.index


class DualHidden(DualLayer):
    """A wide layer behind others: keeps the history of its inputs ``[rows, steps * batch, in]``, not its weights."""

    def __init__(self, layer: nn.Linear, chunk: Chunk, begin: int, bfloat16: bool = False):
        _, steps, width = chunk.indices.shape
        slots, used = steps * width, tuple(count * width for count in chunk.steps)
        super().__init__(layer, chunk, begin, slots, used, bfloat16)
        rows, device = len(chunk), chunk.indices.device
        self._history = torch.zeros(rows, slots, layer.in_features, device=device)
        self._gram = torch.zeros(rows, slots, slots, device=device)
        self._shared = torch.zeros(rows, slots, layer.out_features, device=device)
        self._here, self._before = slice(0, 0), slice(0, 0)

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """``keep * x W_0 + (x X^T) C + b`` with the history X."""
        rows, width = inputs.shape[:2]
        here, before = slice(step * width, (step + 1) * width), slice(0, step * width)
        self._here, self._before = here, before
        shared = self._times_starts(inputs, transposed=True)
        self._history[:rows, here] = inputs
        with exact_products():  # norms are made of it
            gram = torch.bmm(inputs, self._history[:rows, : here.stop].transpose(1, 2))
        self._gram[:rows, here, : here.stop] = gram
        self._gram[:rows, before, here] = gram[:, :, before].transpose(1, 2)
        self._shared[:rows, here] = shared
        outputs = self._kept(shared)
        if step:
            outputs = torch.baddbmm(outputs, gram[:, :, before], self._coefficients[:rows, before])
        return self._plus_bias(outputs)

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """``keep * g W_0^T + (g C^T) X``."""
        self._gradient = gradient
        if not needs_input:
            return None
        rows, before = len(gradient), self._before
        found = self._kept(self._times_starts(gradient, transposed=False))
        if before.stop:
            mixed = torch.bmm(gradient, self._coefficients[:rows, before].transpose(1, 2))
            found = torch.baddbmm(found, mixed, self._history[:rows, before])
        return found

    def _add(self, target: torch.Tensor, values: torch.Tensor) -> None:
        target[: len(values), self._here].add_(values)

    def _products(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._gram, self._shared

    def _inputs_and_index(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows, slots, width = self._history.shape
        index = torch.arange(rows * slots, device=self._history.device).view(rows, slots)
        return self._history.view(rows * slots, width), index


def _gather(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return values.gather(1, at[..., None].expand(-1, -1, values.shape[2]))
