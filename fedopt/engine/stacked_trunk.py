"""The trunk of a network for all clients at once: one grouped convolution instead of one convolution per client.

A GPU is idle between the small kernels of one client, so there the client axis pays (``torch.func.vmap`` turns a
convolution with a weight per client into a grouped one). On a CPU it gains nothing: see ``trunk.py``.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

from fedopt.engine.flat_module import spec_of
from fedopt.engine.pieces import DensePiece, Piece
from fedopt.engine.precision import lowered
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.tasks import Chunk
from fedopt.types import ParamSpec


class StackedTrunk:
    """A trunk whose parameters are ``[rows, size]`` and whose rows are computed together.

    Padded examples are computed as well; their gradient is zero, so they move nothing.

    Args:
        module: the trunk; maps ``[batch, *input_shape]`` to ``[batch, ...]`` and changes no buffer.
        bfloat16: run it under bfloat16 autocast.
    """

    def __init__(self, module: nn.Module, bfloat16: bool):
        self.spec: ParamSpec = spec_of(module)
        spec, shared = self.spec, copy.deepcopy(module).train()
        frozen = {name: p.detach() for name, p in shared.named_parameters() if not p.requires_grad}

        def features(flat: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            with lowered(inputs.device, bfloat16):
                return functional_call(shared, {**spec.unflatten(flat), **frozen}, (inputs,)).float()  # type: ignore[no-any-return]

        self._features = vmap(features)

    def begin(self, chunk: Chunk) -> None:
        """Start a chunk: every row's parameters at its starting point."""
        self.parameter = RowsParameter(chunk, 0, self.spec.size, (self.spec.size,))

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """Features ``[rows, batch, ...]`` of every row."""
        rows = len(inputs)

        def of_parameters(flat: torch.Tensor) -> torch.Tensor:
            return self._features(flat, inputs)  # type: ignore[no-any-return]

        outputs, self._pull = vjp(of_parameters, self.parameter.values[:rows])  # type: ignore[misc]
        return outputs.detach()  # type: ignore[no-any-return]

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """Gradients of the parameters; nothing is in front of the trunk."""
        (self._gradients,) = self._pull(gradient)
        del self._pull
        return None

    def gradients(self) -> list[tuple[RowsParameter, torch.Tensor]]:
        """Gradients of all the trunk's parameters together ``[rows, size]``."""
        return [(self.parameter, self._gradients)]

    def update(self, context: StepContext) -> None:
        """A plain step."""
        self.parameter.regularise(self._gradients, context)
        self.parameter.move(self._gradients, context)

    def pieces(self) -> list[Piece]:
        """End minus start of all the trunk's parameters."""
        return [DensePiece(self.parameter.update())]
