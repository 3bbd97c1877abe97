"""The batched formulation: a chain of layers computed for a chunk of clients at once, without autograd.

Two layers of choice: every layer has one weight per client (batched products, updated in place), except that the first
linear layer may be in dual form (see ``dual.py``). Which of the two is decided per chunk by counting operations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from fedopt.engine.base import DenseUpdates, LocalRule
from fedopt.engine.dual import DualLinear
from fedopt.engine.layers import Flatten, Linear, ReLU, Stateless
from fedopt.engine.losses import loss_and_gradient
from fedopt.engine.pieces import Piece, PiecewiseUpdates
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.rules import clipping_factors
from fedopt.engine.tasks import Chunk, LossTask, Trained
from fedopt.rng import torch_generator

DualUse = Literal["never", "always", "auto"]
STATELESS = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.MaxPool2d, nn.AvgPool2d, nn.Softplus)


def chain_of(module: nn.Module) -> list[nn.Module] | None:
    """The layers of a (nested) ``nn.Sequential`` of standard layers, or None when there is anything else in it."""
    if type(module) is nn.Sequential:
        parts = [chain_of(child) for child in module]
        return None if any(part is None for part in parts) else [layer for part in parts for layer in part or []]
    if type(module) is nn.Dropout and module.p > 0:
        return None
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) != (1, -1):
        return None
    known = (nn.Linear, nn.Flatten, nn.ReLU, nn.Identity, nn.Dropout, *STATELESS)
    return [module] if type(module) in known else None


class Batched:
    """Trains a chunk of clients at once by hand-written layers.

    Args:
        task: the model and data; the model must be a chain (``chain_of``) of linear and parameter-free layers.
        dual: whether the first linear layer may be in dual form.
    """

    preferred_rows = 8

    def __init__(self, task: LossTask, dual: DualUse):
        layers = chain_of(task.module)
        if layers is None or task.task.kind not in ("classification", "regression"):
            raise ValueError("the batched formulation needs an nn.Sequential of standard layers; use loop or vmap")
        self.name = "batched" if dual == "never" else "dual"
        self._task, self._dual = task, dual
        self._layers = [layer for layer in layers if type(layer) not in (nn.Identity, nn.Dropout)]
        self._flat_inputs = task.inputs.flatten(1)

    @staticmethod
    def supports(rule: LocalRule) -> bool:
        """Every local rule."""
        return True

    @torch.no_grad()
    def train(self, chunk: Chunk) -> Trained:
        """Train every row of the chunk."""
        if chunk.max_steps == 0:
            return _idle(chunk, self._task)
        layers = self._build(chunk)
        totals = torch.zeros(2, len(chunk), device=self._task.device)
        noise = NoiseStreams(chunk, self._task)
        counts = torch.from_numpy(chunk.counts).to(self._task.device)
        scales = (1.0 / torch.from_numpy(chunk.denominators)).float().to(self._task.device)
        width = chunk.indices.shape[2]
        ragged = bool((chunk.counts < width).any())
        columns = torch.arange(width, device=self._task.device)
        for step in range(chunk.max_steps):
            rows = chunk.active(step)
            real = (columns < counts[:rows, step, None]).float() if ragged else None
            self._gradient(layers, chunk, step, real, scales[:rows, step], totals[:, :rows])
            context = StepContext(rows, _rates(chunk, step, rows), chunk.rule, step == 0, None)
            _apply(layers, chunk, context, scales[:rows, step], noise)
        pieces: list[Piece] = [piece for layer in layers if hasattr(layer, "pieces") for piece in layer.pieces()]
        return Trained(PiecewiseUpdates(tuple(pieces), len(chunk)), totals[0] / totals[1])

    def _build(self, chunk: Chunk) -> list[Any]:
        made: list[Any] = []
        begin = 0
        for layer in self._layers:
            if isinstance(layer, nn.Linear):
                first = all(isinstance(before, Flatten) for before in made)
                if first and self._use_dual(layer, chunk):
                    made = [DualLinear(layer, chunk, begin, self._flat_inputs)]
                else:
                    made.append(Linear(layer, chunk, begin))
                begin += sum(p.numel() for p in layer.parameters())
            elif isinstance(layer, nn.Flatten):
                made.append(Flatten())
            elif isinstance(layer, nn.ReLU):
                made.append(ReLU(bool(made) and isinstance(made[-1], Linear | DualLinear)))
            else:
                made.append(Stateless(layer))
        return made

    def _use_dual(self, layer: nn.Linear, chunk: Chunk) -> bool:
        if self._dual == "never" or not DualLinear.supports(chunk.rule):
            return False
        slots = chunk.indices.shape[1] * chunk.indices.shape[2]
        return self._dual == "always" or slots <= 3 * layer.out_features + 128

    def _gradient(
        self,
        layers: list[Any],
        chunk: Chunk,
        step: int,
        real: torch.Tensor | None,
        scales: torch.Tensor,
        totals: torch.Tensor,
    ) -> None:
        """Forward and backward pass; layers remember their gradients, of the mean loss unless examples are clipped.

        Args:
            layers: the layers of this chunk.
            chunk: the chunk.
            step: which step.
            real: 1 for examples, 0 for padding ``[rows, batch]``; None without padding.
            scales: one over the denominators ``[rows]``.
            totals: sums of batch losses and number of batches ``[2, rows]``, added to.
        """
        indices = chunk.indices[: len(scales), step]
        outputs = indices if isinstance(layers[0], DualLinear) else self._task.inputs[indices]
        for layer in layers:
            outputs = layer.forward(outputs, step)
        losses, gradient = loss_and_gradient(self._task.task, outputs, self._task.targets[indices])
        if real is None:
            totals[0] += losses.mean(1)
            totals[1] += 1
        else:
            counts = real.sum(1)
            totals[0] += (losses * real).sum(1) / counts.clamp(min=1)
            totals[1] += counts > 0
            gradient.mul_(real[..., None])
        if chunk.rule.example_clipping is None:
            gradient.mul_(scales[:, None, None])
        for position in range(len(layers) - 1, -1, -1):
            gradient = layers[position].backward(gradient, position > 0)


def _apply(layers: list[Any], chunk: Chunk, context: StepContext, scales: torch.Tensor, noise: NoiseStreams) -> None:
    """Clip, add noise, and move every parameter."""
    owners = [layer for layer in layers if hasattr(layer, "pieces")]
    if chunk.rule.example_clipping is not None:
        _reweight(owners, chunk, scales)
    if noise.active:
        context = replace(context, noise=noise.draw(context.rows, scales))
    duals = [layer for layer in owners if isinstance(layer, DualLinear)]
    rest = [layer for layer in owners if not isinstance(layer, DualLinear)]
    for layer in duals:
        layer.advance(context)
    if context.is_plain:
        for layer in rest:
            layer.update(context)
        _move([pair for layer in duals for pair in layer.gradients()], context)
    else:
        _move([pair for layer in owners for pair in layer.gradients()], context)


class NoiseStreams:
    """One stream of noise per client, so that chunking does not change what is drawn."""

    def __init__(self, chunk: Chunk, task: LossTask):
        clipping = chunk.rule.example_clipping
        self.active = clipping is not None and clipping.noise_std > 0.0
        if clipping is None or not self.active:
            return
        self._std = clipping.noise_std
        names = zip(chunk.clients, chunk.tasks, strict=True)
        self._streams = [torch_generator(task.device, chunk.seed, clipping.noise_purpose, c, t) for c, t in names]
        self._buffer = torch.empty(len(chunk), task.spec.size, device=task.device)

    def draw(self, rows: int, scales: torch.Tensor) -> torch.Tensor:
        """Noise of one step for the active rows, divided by the denominators ``[rows, d]``."""
        for row in range(rows):
            torch.randn(self._buffer.shape[1], generator=self._streams[row], out=self._buffer[row])
        return self._buffer[:rows].mul_((self._std * scales)[:, None])


def _reweight(owners: list[Any], chunk: Chunk, scales: torch.Tensor) -> None:
    clipping = chunk.rule.example_clipping
    if clipping is None:
        return
    squares = [layer.example_squares() for layer in owners]
    if clipping.per_layer is None:
        norms = torch.stack([part for found in squares for part in found]).sum(0).sqrt()
        factor = clipping_factors(clipping, norms, clipping.clipping_norm) * scales[:, None]
        for layer, found in zip(owners, squares, strict=True):
            layer.reweight([factor] * len(found))
        return
    bounds = iter(clipping.per_layer)
    for layer, found in zip(owners, squares, strict=True):
        layer.reweight([clipping_factors(clipping, part.sqrt(), next(bounds)) * scales[:, None] for part in found])


def _move(explicit: list[tuple[RowsParameter, torch.Tensor]], context: StepContext) -> None:
    """Regularise, clip over all parameters together, and step along explicit gradients."""
    for parameter, gradient in explicit:
        parameter.regularise(gradient, context)
    bound = context.rule.gradient_clip
    if bound is not None:
        norms = torch.stack([gradient.norm(dim=1) for _, gradient in explicit]).norm(dim=0)
        factors = (bound / norms).clamp_(max=1.0)[:, None]
        for _, gradient in explicit:
            gradient.mul_(factors)
    for parameter, gradient in explicit:
        parameter.move(gradient, context)


def _rates(chunk: Chunk, step: int, rows: int) -> torch.Tensor | float:
    rates = chunk.rule.rates[:rows, step]
    values = rates.tolist()
    return values[0] if len(set(values)) == 1 else rates.to(chunk.indices.device)


def _idle(chunk: Chunk, task: LossTask) -> Trained:
    nothing = torch.zeros(len(chunk), task.spec.size, device=task.device)
    return Trained(DenseUpdates(nothing), torch.full((len(chunk),), float("nan"), device=task.device))
