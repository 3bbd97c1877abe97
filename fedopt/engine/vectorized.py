"""The vectorised formulation: ``torch.func`` over clients, for modules of which nothing is known."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from fedopt.engine.base import DenseUpdates, ExampleClipping, LocalRule
from fedopt.engine.noise import NoiseStreams
from fedopt.engine.precision import exact_products, lowered
from fedopt.engine.rules import apply_rule, clipping_factors, scale_examples
from fedopt.engine.tasks import Chunk, LossTask, Trained
from fedopt.engine.transfer import to_device
from fedopt.models._inspect import unvectorizable


class Vectorized:
    """Trains a chunk of clients at once by ``vmap`` of the gradient over flat parameters ``[rows, d]``.

    Args:
        task: the model and data; the module must not change itself in the forward pass.
    """

    name = "vmap"
    preferred_rows = 16

    def __init__(self, task: LossTask):
        self._task = task
        module = copy.deepcopy(task.module).to(task.device).train()
        self._buffers = {name: value.to(task.device) for name, value in module.named_buffers()}
        frozen = {n: p.detach().to(task.device) for n, p in module.named_parameters() if not p.requires_grad}
        self._constant = {**self._buffers, **frozen}

        def example(flat: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            values = {**task.spec.unflatten(flat), **self._constant}
            with lowered(task.device, task.bfloat16):
                outputs = functional_call(module, values, (inputs,))
            return task.loss(outputs.float(), targets)

        def batch(
            flat: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
        ) -> torch.Tensor:
            return (example(flat, inputs, targets) * weights).sum()

        def single(flat: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return example(flat, inputs[None], targets[None])[0]

        self._batch_gradient = vmap(grad_and_value(batch))
        self._example_gradients = vmap(grad_and_value(single), in_dims=(None, 0, 0))

    def twin(self) -> Vectorized:
        """Another one, for another thread."""
        return Vectorized(self._task)

    @staticmethod
    def supports(rule: LocalRule) -> bool:
        """Every local rule."""
        return True

    def train(self, chunk: Chunk) -> Trained:
        """Train every row of the chunk."""
        starts, device = chunk.stacked_starts(), self._task.device
        points, rule = starts.clone(), chunk.rule
        buffers = torch.zeros_like(points) if rule.momentum else None
        noise = NoiseStreams(chunk, self._task)
        counts = to_device(chunk.counts, device)
        scales = to_device(1.0 / chunk.denominators, device, torch.float32)
        columns = torch.arange(chunk.indices.shape[2], device=device)
        totals = torch.zeros(2, len(chunk), device=device)
        for step in range(chunk.max_steps):
            rows = chunk.active(step)
            real = (columns < counts[:rows, step, None]).float()
            gradients, losses = self._gradients(points[:rows], chunk, step, real, scales[:rows, step])
            if noise.active:
                gradients = gradients + noise.draw(rows, scales[:rows, step])
            totals[0, :rows] += losses / counts[:rows, step].clamp(min=1)
            totals[1, :rows] += counts[:rows, step] > 0
            apply_rule(
                points[:rows],
                gradients,
                starts[:rows],
                None if buffers is None else buffers[:rows],
                chunk.rates[:rows, step],
                rule,
                None if rule.correction is None else rule.correction[:rows],
                step == 0,
            )
        return Trained(DenseUpdates(points.sub_(starts)), totals[0] / totals[1])

    def _gradients(
        self, points: torch.Tensor, chunk: Chunk, step: int, real: torch.Tensor, scales: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch gradients ``[rows, d]`` over the denominators, and summed losses ``[rows]``."""
        indices = chunk.indices[: len(points), step]
        inputs, targets = self._task.inputs[indices], self._task.targets[indices]
        clipping = chunk.rule.example_clipping
        if clipping is None:
            gradients, losses = self._batch_gradient(points, inputs, targets, real)
            return gradients.mul_(scales[:, None]), losses
        gradients, losses = torch.empty_like(points), torch.empty(len(points), device=points.device)
        for row in range(len(points)):  # one row's per-example gradients [batch, d] at a time: memory
            found, values = self._example_gradients(points[row], inputs[row], targets[row])
            self._clip(found, clipping)
            with exact_products():  # a sum of clipped gradients, no larger than its noise was made for
                gradients[row] = (real[row] * scales[row]) @ found
            losses[row] = values @ real[row]
        return gradients, losses

    def _clip(self, gradients: torch.Tensor, clipping: ExampleClipping) -> None:
        """Clip every example's gradient ``[batch, d]`` in place."""
        if clipping.per_layer is None:
            norms = gradients.norm(dim=-1, keepdim=True)
            scale_examples(gradients, clipping_factors(clipping, norms, clipping.clipping_norm))
            return
        ends = self._task.spec.offsets
        for i, bound in enumerate(clipping.per_layer):
            piece = gradients[..., ends[i] : ends[i + 1]]
            scale_examples(piece, clipping_factors(clipping, piece.norm(dim=-1, keepdim=True), bound))


def refusal(module: nn.Module, example: torch.Tensor) -> str | None:
    """Why ``vmap`` cannot run a module with the loop's numbers, or None."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            return f"{name} ({type(layer).__name__}) draws each client's masks from its own stream"
    # Its values do not matter; zeros are valid tokens as well, and need no copy from a device.
    reasons = unvectorizable(module, torch.zeros(example.shape, dtype=example.dtype))
    return reasons[0] if reasons else None
