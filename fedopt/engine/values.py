"""Losses of models as values: many parameter vectors at once, no backward pass.

The parameters are arguments of a pure function, so the same code serves finite differences and forward-mode
differentiation. Perturbed models run as one batch (``vmap``) where the module allows it and they fit a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from fedopt.engine.losses import ExampleLoss
from fedopt.models._inspect import unvectorizable
from fedopt.types import ParamSpec

_BLOCK_NUMBERS = 1 << 24  # parameters of the models that run as one batch
_WIDE = 1 << 18  # from this size on a model fills the arithmetic units alone, and batching only costs memory


class LossValues:
    """Losses of one module at given parameters.

    Args:
        module: in evaluation mode, on the device; its own parameters are never used.
        spec: names of the flat vector.
        loss: loss per example.
        inputs, targets: the training examples on the device.
    """

    def __init__(
        self, module: nn.Module, spec: ParamSpec, loss: ExampleLoss, inputs: torch.Tensor, targets: torch.Tensor
    ):
        self._inputs, self._targets, self._spec = inputs, targets, spec
        own = {name: value.detach() for name, value in module.named_buffers()}
        own |= {name: value.detach() for name, value in module.named_parameters() if not value.requires_grad}

        def losses(flat: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return loss(functional_call(module, {**spec.unflatten(flat), **own}, (x,)), y)

        self._losses = losses
        self._batched = spec.size < _WIDE and not unvectorizable(module)

    def per_example(self, points: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Losses of examples ``[b]`` at parameters ``[k, d]``: ``[k, b]``."""
        x, y = self._inputs[indices], self._targets[indices]
        if not self._batched or len(points) == 1:
            return torch.stack([self._losses(point, x, y) for point in points])
        size = max(1, _BLOCK_NUMBERS // self._spec.size)
        over_points: Any = vmap(self._losses, in_dims=(0, None, None))
        return torch.cat([over_points(part, x, y) for part in points.split(size)])

    def means(self, points: torch.Tensor, indices: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Mean loss of every row's batch at each of its points ``[rows, k]``; 0 for an empty batch.

        Args:
            points: ``[rows, k, d]``, or ``[1, k, d]`` where all rows evaluate the same points: then all batches are
                one.
            indices: ``[rows, b]`` examples of every row, padded.
            counts: ``[rows]`` real examples of every row.
        """
        rows, width = indices.shape
        if width == 0 or rows == 0:
            return points.new_zeros(rows, points.shape[1])
        real = torch.arange(width, device=indices.device) < counts[:, None]
        if len(points) == 1:
            losses = self.per_example(points[0], indices.flatten()).view(-1, rows, width).movedim(0, 1)
        elif self._batched and points.numel() <= _BLOCK_NUMBERS:
            over_points: Any = vmap(vmap(self._losses, in_dims=(0, None, None)))
            losses = over_points(points, self._inputs[indices], self._targets[indices])
        else:
            losses = torch.stack([self.per_example(p, i) for p, i in zip(points, indices, strict=True)])
        kept = torch.where(real[:, None], losses, torch.zeros_like(losses))
        return kept.sum(-1) / counts.clamp_min(1)[:, None]
