"""Layers whose step is always the same list of kernels on the same buffers: what a CUDA graph can replay.

Every layer works on the first ``rows`` rows of its buffers. Gradients arrive already multiplied by the learning rate
over the denominator, so a step subtracts them; ``keep`` is ``1 - rate * weight decay`` ``[rows, 1, 1]``, or None
without weight decay.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from fedopt.engine.convolution import (
    Columns,
    MaxPool,
    convolve,
    convolve_back,
    is_plain_convolution,
    is_plain_pooling,
)
from fedopt.engine.dropout import dropped


class StaticLayer(Protocol):
    """One layer for all rows. Tensors are ``[rows, batch, ...]``."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs; remembers what the backward pass needs."""
        ...

    def backward(self, gradient: torch.Tensor, keep: torch.Tensor | None, needs_input: bool) -> torch.Tensor | None:
        """Gradient at the inputs (None if not needed), and the step of the layer's own parameters."""
        ...

    def forget(self) -> None:
        """Let go of what was remembered."""
        ...


class _Remembering:
    """A layer that remembers tensors between its forward and its backward pass."""

    remembered: tuple[str, ...] = ()

    def forget(self) -> None:
        """Let go of them, where no backward pass will come."""
        for name in self.remembered:
            setattr(self, name, None)


class StaticLinear(_Remembering):
    """One weight per client ``[capacity, out, in]``, updated in place."""

    remembered = ("_inputs",)

    def __init__(self, layer: nn.Linear, capacity: int, device: torch.device):
        self.weight = torch.zeros(capacity, *layer.weight.shape, device=device)
        self.bias = None if layer.bias is None else torch.zeros(capacity, layer.out_features, device=device)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``x W^T + b``."""
        self._inputs, rows = inputs, len(inputs)
        weight = self.weight[:rows].transpose(1, 2)
        return torch.bmm(inputs, weight) if self.bias is None else torch.baddbmm(self.bias[:rows, None], inputs, weight)

    def backward(self, gradient: torch.Tensor, keep: torch.Tensor | None, needs_input: bool) -> torch.Tensor | None:
        """``g W``, then ``W <- keep W - g^T x``."""
        rows = len(gradient)
        weight = self.weight[:rows]
        below = torch.bmm(gradient, weight) if needs_input else None
        _keep(weight, keep).baddbmm_(gradient.transpose(1, 2), self._inputs, alpha=-1.0)
        if self.bias is not None:
            _keep(self.bias[:rows], keep).sub_(gradient.sum(1))
        return below


class StaticConvolution(_Remembering):
    """One kernel per client ``[capacity, out, in * kh * kw]``, updated in place."""

    remembered = ("_seen",)

    def __init__(self, layer: nn.Conv2d, capacity: int, device: torch.device, bfloat16: bool):
        self._columns, self._bfloat16 = Columns(layer), bfloat16
        self.weight = torch.zeros(capacity, layer.out_channels, self._columns.weights, device=device)
        self.bias = None if layer.bias is None else torch.zeros(capacity, layer.out_channels, device=device)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[rows, batch, in, h, w] -> [rows, batch, out, h', w']``."""
        self._shape = inputs.shape
        rows, batch, _, height, width = inputs.shape
        self._seen = self._columns.of(self._low(inputs.flatten(0, 1)))
        bias = None if self.bias is None else self.bias[:rows]
        outputs = convolve(self._low(self.weight[:rows]), bias, self._seen, batch)
        return outputs.view(rows, batch, -1, *self._columns.places(height, width))

    def backward(self, gradient: torch.Tensor, keep: torch.Tensor | None, needs_input: bool) -> torch.Tensor | None:
        """Back through the columns, then the step."""
        rows, batch = self._shape[:2]
        flat = gradient.flatten(3).flatten(0, 1)
        weight, low = self.weight[:rows], self._low(flat)
        below = None
        if needs_input:
            columns = convolve_back(self._low(weight), low, batch)
            below = self._columns.back(columns, *self._shape[3:]).view(self._shape)
        product = torch.bmm(low, self._seen.transpose(1, 2)).view(rows, batch, *weight.shape[1:])
        _keep(weight, keep).sub_(product.sum(1, dtype=torch.float32))
        if self.bias is not None:
            _keep(self.bias[:rows], keep).sub_(flat.sum(2).view(rows, batch, -1).sum(1))
        return below

    def _low(self, values: torch.Tensor) -> torch.Tensor:
        return values.bfloat16() if self._bfloat16 else values


class StaticReLU(_Remembering):
    """Rectifier, in place: nothing in front of it needs its own outputs."""

    remembered = ("_outputs",)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``max(x, 0)``."""
        self._outputs = inputs.relu_()
        return self._outputs

    def backward(self, gradient: torch.Tensor, keep: torch.Tensor | None, needs_input: bool) -> torch.Tensor | None:
        """Zero where the output is zero."""
        return torch.ops.aten.threshold_backward(gradient, self._outputs, 0.0) if needs_input else None


class StaticFlatten(_Remembering):
    """Everything behind the batch axis."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[rows, batch, features]``."""
        self._shape = inputs.shape
        return inputs.flatten(2)

    def backward(self, gradient: torch.Tensor, keep: torch.Tensor | None, needs_input: bool) -> torch.Tensor | None:
        """Back to the shape of the inputs."""
        return gradient.reshape(self._shape) if needs_input else None


class StaticMaxPool(_Remembering):
    """Maximum pooling."""

    def __init__(self, layer: nn.MaxPool2d):
        self._module = layer
        self.forget()

    def forget(self) -> None:
        """What the last forward pass left."""
        self._layer = MaxPool(self._module)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Largest value of every window."""
        return self._layer.forward(inputs, 0)

    def backward(self, gradient: torch.Tensor, keep: torch.Tensor | None, needs_input: bool) -> torch.Tensor | None:
        """To where the largest values stood."""
        return self._layer.backward(gradient, needs_input)


class StaticDropout(_Remembering):
    """Dropout; its ``keys`` ``[capacity, 2]`` are loaded with a chunk.

    ``seen`` is where the number of examples before the step stands, int32 ``[capacity]``, the same for all layers.
    """

    remembered = ("_begins",)

    def __init__(self, layer: nn.Dropout, capacity: int, device: torch.device, seen: torch.Tensor):
        self._probability, self._seen = layer.p, seen
        self.keys = torch.zeros(capacity, 2, dtype=torch.int32, device=device)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Zero each value with the given probability and rescale the rest."""
        if self._probability == 0.0:
            return inputs
        rows, size = len(inputs), inputs[0, 0].numel()
        self._begins = self._seen[:rows] * size
        return dropped(inputs, self.keys[:rows], self._begins, self._probability)

    def backward(self, gradient: torch.Tensor, keep: torch.Tensor | None, needs_input: bool) -> torch.Tensor | None:
        """The same mask, made again: cheaper than keeping it."""
        if self._probability == 0.0 or not needs_input:
            return gradient if needs_input else None
        return dropped(gradient, self.keys[: len(gradient)], self._begins, self._probability)


def static_refusal(layer: nn.Module) -> str | None:
    """Why a layer of a chain has no static form, or None."""
    if type(layer) is nn.Flatten:
        return None if (layer.start_dim, layer.end_dim) == (1, -1) else "a partial Flatten"
    if type(layer) in (nn.Linear, nn.ReLU, nn.Identity, nn.Dropout):
        return None
    return None if is_plain_convolution(layer) or is_plain_pooling(layer) else type(layer).__name__


def static_layer(
    layer: nn.Module, capacity: int, device: torch.device, bfloat16: bool, seen: torch.Tensor
) -> StaticLayer:
    """The static form of a layer that ``static_refusal`` has nothing against (no identity)."""
    match layer:
        case nn.Linear():
            return StaticLinear(layer, capacity, device)
        case nn.Conv2d():
            return StaticConvolution(layer, capacity, device, bfloat16)
        case nn.ReLU():
            return StaticReLU()
        case nn.MaxPool2d():
            return StaticMaxPool(layer)
        case nn.Dropout():
            return StaticDropout(layer, capacity, device, seen)
    return StaticFlatten()


def _keep(values: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """Weight decay, where there is any."""
    return values if keep is None else values.mul_(keep.view(-1, *[1] * (values.dim() - 1)))
