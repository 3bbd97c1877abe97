"""Convolutions and pooling with one weight per client, as products over the columns of the images.

A GPU runs a grouped convolution in single precision group by group; the columns of all clients' images and one batched
product keep it busy. On a CPU this moves too many bytes: there ``trunk.py`` runs client after client.

References: Chellapilla, Puri and Simard 2006, High performance convolutional neural networks (columns of images).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fedopt.engine import kernels
from fedopt.engine.pieces import DensePiece, Piece
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.rules import scale_examples
from fedopt.engine.tasks import Chunk


def is_plain_convolution(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that ``Columns`` can do: one group, zeros around the image."""
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def is_plain_pooling(layer: nn.Module) -> bool:
    """Whether a layer is a maximum pooling that ``MaxPool`` can do."""
    return type(layer) is nn.MaxPool2d and not layer.return_indices


class Columns:
    """The arithmetic of a convolution: ``[n, in, h, w]`` images to ``[n, in * kh * kw, places]`` columns and back."""

    def __init__(self, layer: nn.Conv2d):
        options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        self.kernel, self.stride, self.padding, self.dilation = self._options = tuple(map(_pair, options))
        self.weights = layer.in_channels * self.kernel[0] * self.kernel[1]

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the outputs."""
        found = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(
                (height, width), self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        ]
        return found[0], found[1]

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """Columns of images. PyTorch's own ``unfold`` is a kernel per image on a GPU; a strided copy is one."""
        if kernels.available(images.device):
            return kernels.unfold(images, self.places(*images.shape[2:]), self._options)
        if images.device.type != "cpu":
            return self.of_any_device(images)
        return functional.unfold(images, self.kernel, self.dilation, self.padding, self.stride)

    def of_any_device(self, images: torch.Tensor) -> torch.Tensor:
        """Columns by one strided copy."""
        n, channels, height, width = images.shape
        down, across = self.places(height, width)
        (top, left), (d0, d1), (s0, s1) = self.padding, self.dilation, self.stride
        padded = functional.pad(images, (left, left, top, top)).contiguous()
        image, channel, row, column = padded.stride()
        windows = padded.as_strided(
            (n, channels, *self.kernel, down, across),
            (image, channel, d0 * row, d1 * column, s0 * row, s1 * column),
        )
        return windows.reshape(n, self.weights, down * across)

    def back(self, columns: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Sum of the columns' values at every pixel ``[n, in, h, w]`` in float32: the transpose of ``of``."""
        if kernels.available(columns.device):
            return kernels.fold(columns, (height, width), self.places(height, width), self._options)
        size = (height, width)
        return functional.fold(columns, size, self.kernel, self.dilation, self.padding, self.stride).float()


class Convolution:
    """``nn.Conv2d`` with one weight per client (a layer of ``fedopt.engine.layers``).

    Args:
        layer: plain in the sense of ``is_plain_convolution``.
        chunk: rows.
        begin: where its parameters begin in the flat vector.
        bfloat16: products of bfloat16 factors.
    """

    def __init__(self, layer: nn.Conv2d, chunk: Chunk, begin: int, bfloat16: bool):
        self._columns, self._bfloat16 = Columns(layer), bfloat16
        split = begin + layer.weight.numel()
        self.weight = RowsParameter(chunk, begin, split, (layer.out_channels, self._columns.weights))
        self.bias = None
        if layer.bias is not None:
            self.bias = RowsParameter(chunk, split, split + layer.out_channels, (layer.out_channels,))

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """``[rows, batch, in, h, w] -> [rows, batch, out, h', w']``."""
        rows, batch, _, height, width = inputs.shape
        self._rows, self._batch, self._size = rows, batch, (height, width)
        self._seen = self._columns.of(self._low(inputs.flatten(0, 1)))
        bias = None if self.bias is None else self.bias.values[:rows]
        outputs = convolve(self._low(self.weight.values[:rows]), bias, self._seen, batch)
        return outputs.view(rows, batch, -1, *self._columns.places(height, width))

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Gradient at the inputs; the weights' own are made of what is remembered here."""
        self._gradient = gradient.flatten(3).flatten(0, 1)
        self._examples: tuple[torch.Tensor, torch.Tensor] | None = None
        if not needs_input:
            return None
        weights = self._low(self.weight.values[: self._rows])
        below = convolve_back(weights, self._low(self._gradient), self._batch)
        return self._columns.back(below, *self._size).view(self._rows, self._batch, -1, *self._size)

    def _low(self, values: torch.Tensor) -> torch.Tensor:
        return values.bfloat16() if self._bfloat16 else values

    def _per_example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of every example: weights ``[rows * batch, out, in * kh * kw]``, biases ``[rows * batch, out]``."""
        if self._examples is None:
            product = torch.bmm(self._low(self._gradient), self._seen.transpose(1, 2)).float()
            self._examples = product, self._gradient.sum(2)
        return self._examples

    def example_squares(self) -> list[torch.Tensor]:
        """Squared norms of the per-example gradients, which are made for it."""
        shape = (self._rows, self._batch)
        squares = [each.flatten(1).square().sum(1).view(shape) for each in self._per_example()]
        return squares if self.bias is not None else squares[:1]

    def reweight(self, factors: list[torch.Tensor]) -> None:
        """Scale the per-example gradients; a factor of 0 drops the example."""
        weights, biases = self._per_example()
        scale_examples(weights, factors[0].flatten()[:, None, None])
        scale_examples(biases, factors[-1].flatten()[:, None])

    def gradients(self) -> list[tuple[RowsParameter, torch.Tensor]]:
        """Sums over the batch ``[rows, size]``."""
        weights, biases = (each.view(self._rows, self._batch, -1).sum(1) for each in self._per_example())
        made = [(self.weight, weights)]
        return made if self.bias is None else [*made, (self.bias, biases)]

    def update(self, context: StepContext) -> None:
        """A plain step."""
        for parameter, gradient in self.gradients():
            parameter.regularise(gradient, context)
            parameter.move(gradient, context)

    def parameters(self) -> list[RowsParameter]:
        """Weight and bias."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def pieces(self) -> list[Piece]:
        """Weight and bias."""
        return [DensePiece(each.update()) for each in self.parameters()]


class MaxPool:
    """``nn.MaxPool2d`` over ``[rows, batch, channels, h, w]``."""

    def __init__(self, layer: nn.MaxPool2d):
        stride = layer.stride if layer.stride is not None else layer.kernel_size
        self._options = [list(_pair(x)) for x in (layer.kernel_size, stride, layer.padding, layer.dilation)]
        self._ceil = layer.ceil_mode

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """Largest value of every window; remembers where it stood."""
        self._inputs = inputs.flatten(0, 1)
        outputs, self._places = torch.ops.aten.max_pool2d_with_indices(self._inputs, *self._options, self._ceil)
        return outputs.view(*inputs.shape[:2], *outputs.shape[1:])  # type: ignore[no-any-return]

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Each window's gradient goes to where its largest value stood."""
        if not needs_input:
            return None
        found = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient.flatten(0, 1).contiguous(), self._inputs, *self._options, self._ceil, self._places
        )
        return found.view(*gradient.shape[:2], *self._inputs.shape[1:])  # type: ignore[no-any-return]


def convolve(weights: torch.Tensor, bias: torch.Tensor | None, columns: torch.Tensor, batch: int) -> torch.Tensor:
    """Weights ``[rows, out, k]`` and columns ``[rows * batch, k, places]`` to ``[rows * batch, out, places]``."""
    outputs = torch.bmm(per_image(weights, batch), columns).float()
    return outputs if bias is None else outputs.add_(per_image(bias, batch)[..., None])


def convolve_back(weights: torch.Tensor, gradient: torch.Tensor, batch: int) -> torch.Tensor:
    """Gradient at the columns, from the one at the outputs."""
    return torch.bmm(per_image(weights, batch).transpose(1, 2), gradient)


def per_image(values: torch.Tensor, batch: int) -> torch.Tensor:
    """A client's values for each of its images: ``[rows, ...] -> [rows * batch, ...]``."""
    return values[:, None].expand(-1, batch, *values.shape[1:]).flatten(0, 1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
