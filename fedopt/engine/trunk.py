"""The trunk of a network (convolutions and whatever else) computed client by client, in front of batched layers.

On a CPU convolutions gain nothing from a client axis, but the wide linear layers behind them do: they hold nearly all
parameters. So the trunk runs as in the loop, through autograd, and hands its features ``[rows, batch, features]`` on.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from fedopt.engine.flat_module import spec_of
from fedopt.engine.pieces import DensePiece, Piece
from fedopt.engine.precision import lowered
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.tasks import Chunk
from fedopt.types import ParamSpec


class Trunk:
    """One copy of a module per row, whose parameters are views into ``[rows, size]``; kept between chunks.

    Args:
        module: the trunk; maps ``[batch, *input_shape]`` to ``[batch, ...]``.
        bfloat16: run it under bfloat16 autocast.
        channels_last: store images with the channels innermost, which convolutions on a CPU prefer.
    """

    def __init__(self, module: nn.Module, bfloat16: bool, channels_last: bool):
        self._module, self._bfloat16, self._channels_last = module, bfloat16, channels_last
        self._copies: list[nn.Module] = []
        self.spec: ParamSpec = spec_of(module)
        self._outputs: list[torch.Tensor] = []
        self._active = 0

    def begin(self, chunk: Chunk) -> None:
        """Start a chunk: every row's parameters at its starting point."""
        while len(self._copies) < len(chunk):
            self._copies.append(copy.deepcopy(self._module).train())
        self.parameter = RowsParameter(chunk, 0, self.spec.size, (self.spec.size,))
        self._gradients = torch.zeros_like(self.parameter.values)
        self._counts = chunk.counts
        for row in range(len(chunk)):
            values = self.spec.unflatten(self.parameter.values[row])
            gradients = self.spec.unflatten(self._gradients[row])
            for name, each in self._copies[row].named_parameters():
                if each.requires_grad:
                    each.data, each.grad = values[name], gradients[name]

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """Features of every row's real examples; zeros for padding."""
        self._gradients.zero_()
        self._outputs, self._active = [], len(inputs)
        with torch.enable_grad(), lowered(inputs.device, self._bfloat16):
            for row in range(len(inputs)):
                seen = inputs[row, : self._counts[row, step]]
                if self._channels_last:
                    seen = channels_last(seen)
                self._outputs.append(self._copies[row](seen).float())
        width = inputs.shape[1]
        if all(len(found) == width for found in self._outputs):
            return torch.stack([found.detach() for found in self._outputs])
        features = torch.zeros(len(inputs), width, *self._outputs[0].shape[1:], device=inputs.device)
        for row, found in enumerate(self._outputs):
            features[row, : len(found)] = found.detach()
        return features

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Autograd of every row; nothing is in front of the trunk."""
        for found, each in zip(self._outputs, gradient, strict=True):
            if len(found):
                found.backward(each[: len(found)])
        self._outputs = []
        return None

    def gradients(self) -> list[tuple[RowsParameter, torch.Tensor]]:
        """Gradients of all the trunk's parameters together ``[rows, size]``."""
        return [(self.parameter, self._gradients[: self._active])]

    def update(self, context: StepContext) -> None:
        """A plain step."""
        gradients = self._gradients[: context.rows]
        self.parameter.regularise(gradients, context)
        self.parameter.move(gradients, context)

    def parameters(self) -> list[RowsParameter]:
        """All of them together."""
        return [self.parameter]

    def pieces(self) -> list[Piece]:
        """End minus start of all the trunk's parameters, as a copy: the values are views of the modules."""
        return [DensePiece(self.parameter.update())]


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Images ``[n, c, h, w]`` with the channels innermost, also by their strides where there is one channel.

    One channel is stored the same either way. PyTorch then goes by the strides, and would compute the whole network
    with the channels outermost, where pooling costs eight times as much.
    """
    _, c, h, w = images.shape
    stored = images.contiguous(memory_format=torch.channels_last)
    return stored.as_strided(stored.shape, (c * h * w, 1, w * c, c))
