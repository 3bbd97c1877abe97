"""Hand-batched layers: forward, backward and in-place update over the client axis, without autograd."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from fedopt.engine.pieces import DensePiece, Piece
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.rules import drop_examples, scale_examples
from fedopt.engine.tasks import Chunk


class Layer(Protocol):
    """One layer of a chain for all rows of a chunk. Tensors are ``[rows, batch, ...]``."""

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """Outputs; remembers what the backward pass needs."""
        ...

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Gradient at the inputs (None if not needed), from the weights before the update; remembers ``gradient``."""
        ...


class ParameterLayer(Layer, Protocol):
    """A layer with parameters."""

    def example_squares(self) -> list[torch.Tensor]:
        """Squared norm of every example's gradient, per parameter ``[rows, batch]`` (ghost norms)."""
        ...

    def reweight(self, factors: list[torch.Tensor]) -> None:
        """Multiply every example's gradient by a factor ``[rows, batch]``, one per parameter; 0 drops the example."""
        ...

    def gradients(self) -> list[tuple[RowsParameter, torch.Tensor]]:
        """Explicit batch gradients ``[rows, size]``."""
        ...

    def parameters(self) -> list[RowsParameter]:
        """Its parameters that exist per row."""
        ...

    def update(self, context: StepContext) -> None:
        """A plain step without building the gradients, and without noise."""
        ...

    def pieces(self) -> list[Piece]:
        """End minus start, one piece per parameter."""
        ...


class Linear:
    """Linear layers with one weight per client: batched products, updated in place."""

    def __init__(self, layer: nn.Linear, chunk: Chunk, begin: int):
        split = begin + layer.weight.numel()
        self.weight = RowsParameter(chunk, begin, split, tuple(layer.weight.shape))
        self.bias = None
        if layer.bias is not None:
            self.bias = RowsParameter(chunk, split, split + layer.bias.numel(), tuple(layer.bias.shape))

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """``x W^T + b`` per row."""
        self._inputs = inputs
        weights = self.weight.values[: len(inputs)].transpose(1, 2)
        if self.bias is None:
            return torch.bmm(inputs, weights)
        return torch.baddbmm(self.bias.values[: len(inputs), None], inputs, weights)

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """``gradient W``."""
        self._gradient = self._bias_gradient = gradient
        return torch.bmm(gradient, self.weight.values[: len(gradient)]) if needs_input else None

    def example_squares(self) -> list[torch.Tensor]:
        """``|x|^2 |g|^2`` and ``|g|^2``."""
        outer = self._gradient.square().sum(-1)
        squares = [self._inputs.square().sum(-1) * outer]
        return squares if self.bias is None else [*squares, outer]

    def reweight(self, factors: list[torch.Tensor]) -> None:
        """Scale the remembered gradients; the inputs of dropped examples go too, since 0 times infinity is NaN."""
        original, own = self._gradient, factors[0][..., None]
        shared = self.bias is None or factors[1] is factors[0]
        self._bias_gradient = original if shared else scale_examples(original.clone(), factors[1][..., None])
        self._gradient = scale_examples(original, own)
        self._inputs = drop_examples(self._inputs, own)

    def gradients(self) -> list[tuple[RowsParameter, torch.Tensor]]:
        """``g^T x`` and ``sum g``."""
        made = [(self.weight, torch.bmm(self._gradient.transpose(1, 2), self._inputs).flatten(1))]
        return made if self.bias is None else [*made, (self.bias, self._bias_gradient.sum(1))]

    def update(self, context: StepContext) -> None:
        """``W <- (1 - rate * decay) W - rate g^T x`` as one in-place product."""
        rate, rows = float(context.rates), context.rows
        keep = 1.0 - rate * context.rule.weight_decay
        self.weight.values[:rows].baddbmm_(self._gradient.transpose(1, 2), self._inputs, beta=keep, alpha=-rate)
        if self.bias is not None:
            biases = self.bias.values[:rows]
            if context.rule.weight_decay:
                biases.mul_(keep)
            biases.sub_(self._bias_gradient.sum(1), alpha=rate)

    def parameters(self) -> list[RowsParameter]:
        """Weight and bias."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def pieces(self) -> list[Piece]:
        """Weight and bias."""
        made: list[Piece] = [DensePiece(self.weight.update())]
        return made if self.bias is None else [*made, DensePiece(self.bias.update())]


class Flatten:
    """``nn.Flatten`` over everything behind the batch axis."""

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """``[rows, batch, features]``."""
        self._shape = inputs.shape
        return inputs.flatten(2)

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Back to the shape of the inputs."""
        return gradient.view(self._shape) if needs_input else None


class ReLU:
    """Rectifier; in place where nobody else needs its inputs."""

    def __init__(self, in_place: bool):
        self._in_place = in_place

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """``max(x, 0)``."""
        self._outputs = inputs.relu_() if self._in_place else inputs.relu()
        return self._outputs

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Zero where the output is zero."""
        return torch.ops.aten.threshold_backward(gradient, self._outputs, 0.0) if needs_input else None


class Stateless:
    """Any layer without parameters that treats examples separately, through autograd of that layer alone."""

    def __init__(self, layer: nn.Module):
        self._layer = layer

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """Apply to ``[rows * batch, ...]``."""
        self._rows = inputs.shape[:2]
        with torch.enable_grad():
            self._inputs = inputs.flatten(0, 1).detach().requires_grad_()
            self._outputs = self._layer(self._inputs)
        return self._outputs.detach().unflatten(0, self._rows)

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Autograd of the layer."""
        if not needs_input:
            return None
        (found,) = torch.autograd.grad(self._outputs, self._inputs, gradient.flatten(0, 1))
        return found.unflatten(0, self._rows)
