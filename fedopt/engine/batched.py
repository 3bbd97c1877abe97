"""The batched formulation: a chain of layers computed for a chunk of clients at once.

Per layer and chunk one of several exact ways: linear layers have one weight per client (batched products, updated in
place) or the dual form (``dual_core.py``), decided by counting operations; whatever stands in front of the first linear
layer and is not known by hand (convolutions) is the trunk, computed client by client.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from fedopt.engine.base import DenseUpdates, LocalRule
from fedopt.engine.chains import WIDE, split_chain, split_refusal
from fedopt.engine.convolution import Convolution, MaxPool, is_plain_pooling
from fedopt.engine.dropout import Dropout, chunk_keys, seen_before
from fedopt.engine.dual import DualHidden, DualInput
from fedopt.engine.dual_core import DualLayer
from fedopt.engine.layers import Flatten, Linear, ReLU, Stateless
from fedopt.engine.losses import loss_and_gradient
from fedopt.engine.noise import NoiseStreams
from fedopt.engine.pieces import Piece, PiecewiseUpdates
from fedopt.engine.precision import exact_products
from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.rules import clipping_factors
from fedopt.engine.stacked_trunk import StackedTrunk
from fedopt.engine.steps import Steps
from fedopt.engine.tasks import Chunk, LossTask, Trained
from fedopt.engine.transfer import to_device
from fedopt.engine.trunk import Trunk
from fedopt.models._inspect import unvectorizable

DualUse = Literal["never", "always", "auto"]
CACHED = 2**18  # parameters of a block that stay in the cache of a core


def batched_refusal(task: LossTask, convolutions: bool) -> str | None:
    """Why a task cannot be computed by the batched layers, or None; ``convolutions`` as in ``split_chain``."""
    reason = split_refusal(task.module, convolutions)
    if reason is None and task.task.kind not in ("classification", "regression"):
        return f"no closed-form loss gradient for {task.task.kind}"
    return reason


def _trunk(task: LossTask, module: nn.Sequential, stacked: bool) -> Trunk | StackedTrunk:
    made = copy.deepcopy(module).to(task.device)
    like = task.inputs[:2]
    if (
        stacked
        and len(module)
        and not unvectorizable(made, torch.zeros(like.shape, dtype=like.dtype, device=task.device))
    ):
        return StackedTrunk(made, task.bfloat16)
    return Trunk(made, task.bfloat16, len(task.inputs.shape) == 4)


class Batched:
    """Trains a chunk of clients at once.

    Args:
        task: the model and data; the model must be a chain that ``batched_refusal`` has nothing against.
        dual: whether linear layers may be in dual form.
        stacked: whether convolutions and what else is in the trunk run for all rows at once; by default they do where
            that pays, on a GPU.
    """

    def __init__(self, task: LossTask, dual: DualUse, stacked: bool | None = None):
        together = task.device.type != "cpu" if stacked is None else stacked
        parts, reason = split_chain(task.module, together), batched_refusal(task, together)
        if parts is None or reason is not None:
            raise ValueError(f"the batched formulation does not apply: {reason}; use loop or vmap")
        trunk, head = parts
        if not any(True for layer in trunk for _ in layer.parameters()):
            trunk, head = [], trunk + head  # nothing to train there: layers like any other
        self.name = "batched" if dual == "never" else "dual"
        self._task, self._dual, self._stacked = task, dual, stacked
        self._trunk = _trunk(task, nn.Sequential(*trunk), together)
        self._has_trunk = bool(trunk)
        self._head = [layer for layer in head if type(layer) is not nn.Identity]
        if not trunk and self._head and isinstance(self._head[0], nn.Flatten):
            self._head = self._head[1:]
            self._inputs = task.inputs.flatten(1)
        else:
            self._inputs = task.inputs
        self.preferred_rows = min(64, max(8 if trunk or dual == "never" else 16, CACHED // task.spec.size))

    def twin(self) -> Batched:
        """Another one, for another thread."""
        return Batched(self._task, self._dual, self._stacked)

    def supports(self, rule: LocalRule) -> bool:
        """Every local rule, but per-example clipping only without a trunk."""
        return rule.example_clipping is None or not self._has_trunk

    def over(self, task: LossTask) -> Batched | None:
        """The same formulation over other examples, for rows of several runs; None with a trunk: it gains nothing."""
        return None if self._has_trunk else Batched(task, self._dual, self._stacked)

    def floats_per_row(self, steps: int, width: int, rule: LocalRule) -> int:
        """Numbers that a row of ``steps`` batches of ``width`` examples keeps in use: weights, or their dual form."""
        total, first = 0, True
        for layer in self._head:
            if isinstance(layer, nn.Conv2d):
                total, first = total + layer.weight.numel(), False
            elif isinstance(layer, nn.Linear):
                dual = self._form(layer, rule, steps, width, first) is not Linear
                total += steps * width * (steps * width + layer.out_features) if dual else layer.weight.numel()
                first = False
        return total

    @torch.no_grad()
    def train(self, chunk: Chunk) -> Trained:
        """Train every row of the chunk."""
        if chunk.max_steps == 0:
            return _idle(chunk, self._task)
        layers, data = self._build(chunk), Steps(chunk, self._task)
        noise = NoiseStreams(chunk, self._task)
        for step in range(chunk.max_steps):
            rows = chunk.active(step)
            self._gradient(layers, data, step, rows, chunk.rule)
            context = StepContext(rows, data.rate(step, rows), chunk.rule, step == 0, None)
            with exact_products() if chunk.rule.example_clipping is not None else nullcontext():
                _apply(layers, chunk, context, data.scales[step, :rows], noise)
        pieces: list[Piece] = [piece for layer in layers if hasattr(layer, "pieces") for piece in layer.pieces()]
        return Trained(PiecewiseUpdates(tuple(pieces), len(chunk)), data.mean_losses())

    def _build(self, chunk: Chunk) -> list[Any]:
        made: list[Any] = []
        begin = 0
        if self._has_trunk:
            self._trunk.begin(chunk)
            made, begin = [self._trunk], self._trunk.spec.size
        dropouts = self._dropouts(chunk)
        for layer in self._head:
            if isinstance(layer, nn.Linear):
                made.append(self._linear(layer, chunk, begin, first=not made and self._inputs.dim() == 2))
                begin += sum(p.numel() for p in layer.parameters())
            elif isinstance(layer, nn.Flatten):
                made.append(Flatten())
            elif isinstance(layer, nn.ReLU):
                made.append(ReLU(bool(made) and isinstance(made[-1], Linear | DualLayer | Convolution)))
            elif isinstance(layer, nn.Conv2d):
                made.append(Convolution(layer, chunk, begin, self._task.bfloat16))
                begin += sum(p.numel() for p in layer.parameters())
            elif is_plain_pooling(layer):
                made.append(MaxPool(layer))  # type: ignore[arg-type]
            elif isinstance(layer, nn.Dropout):
                if layer.p > 0:
                    made.append(dropouts.pop(0))
            else:
                made.append(Stateless(layer))
        return made

    def _linear(self, layer: nn.Linear, chunk: Chunk, begin: int, first: bool) -> Any:
        bfloat16 = self._task.bfloat16
        form = self._form(layer, chunk.rule, chunk.indices.shape[1], chunk.indices.shape[2], first)
        if form is DualInput:
            return DualInput(layer, chunk, begin, self._inputs, bfloat16)
        return DualHidden(layer, chunk, begin, bfloat16) if form is DualHidden else Linear(layer, chunk, begin)

    def _form(self, layer: nn.Linear, rule: LocalRule, steps: int, width: int, first: bool) -> Any:
        """Class of a linear layer: in dual form where that is less work."""
        allowed = self._dual != "never" and DualLayer.supports(rule)
        if allowed and first and (self._dual == "always" or steps * width <= 3 * layer.out_features + 128):
            return DualInput
        wide = layer.weight.numel() >= WIDE and steps * width * width <= 48 * layer.out_features
        return DualHidden if allowed and not first and (self._dual == "always" or wide) else Linear

    def _dropouts(self, chunk: Chunk) -> list[Dropout]:
        """Those that drop anything; keys are numbered over all of them, as the loop does."""
        layers, device = [layer for layer in self._head if isinstance(layer, nn.Dropout)], self._task.device
        if not any(layer.p > 0 for layer in layers):
            return []
        keys, seen = chunk_keys(chunk, len(layers), device), to_device(seen_before(chunk.counts), device)
        return [Dropout(layer.p, own, seen) for layer, own in zip(layers, keys, strict=True) if layer.p > 0]

    def _gradient(self, layers: list[Any], data: Steps, step: int, rows: int, rule: LocalRule) -> None:
        """Forward and backward pass; layers remember their gradients, of the mean loss unless examples are clipped."""
        indices = data.indices[step, :rows]
        outputs = indices
        if not isinstance(layers[0], DualInput):
            seen = self._inputs.index_select(0, indices.flatten())
            outputs = seen.view(*indices.shape, *seen.shape[1:])
        for layer in layers:
            outputs = layer.forward(outputs, step)
        losses, gradient = loss_and_gradient(self._task.task, outputs, data.targets[step, :rows])
        data.record(step, losses)
        gradient.mul_(data.weights[step, :rows])
        for position in range(len(layers) - 1, -1, -1):
            gradient = layers[position].backward(gradient, position > 0)


def _apply(layers: list[Any], chunk: Chunk, context: StepContext, scales: torch.Tensor, noise: NoiseStreams) -> None:
    """Clip, add noise, and move every parameter."""
    owners = [layer for layer in layers if hasattr(layer, "pieces")]
    if chunk.rule.example_clipping is not None:
        _reweight(owners, chunk, scales)
    if noise.active and not context.is_plain:
        context = replace(context, noise=noise.draw(context.rows, scales))
    duals = [layer for layer in owners if isinstance(layer, DualLayer)]
    rest = [layer for layer in owners if not isinstance(layer, DualLayer)]
    for layer in duals:
        layer.advance(context)
    if context.is_plain:
        for layer in rest:
            layer.update(context)
        if noise.active:
            noise.add(context, [parameter for layer in owners for parameter in layer.parameters()])
        _move([pair for layer in duals for pair in layer.gradients()], context)
    else:
        _move([pair for layer in owners for pair in layer.gradients()], context)


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


def _idle(chunk: Chunk, task: LossTask) -> Trained:
    nothing = torch.zeros(len(chunk), task.spec.size, device=task.device)
    return Trained(DenseUpdates(nothing), torch.full((len(chunk),), float("nan"), device=task.device))
