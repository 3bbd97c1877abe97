"""The loop formulation: one client after the other, the slow obvious way. Oracle of all others."""

from __future__ import annotations

from typing import Any

import torch

from fedopt.engine.base import DenseUpdates, ExampleClipping
from fedopt.engine.flat_module import FlatModule
from fedopt.engine.precision import lowered
from fedopt.engine.rules import apply_rule, clipping_factors, scale_examples
from fedopt.engine.tasks import Chunk, LossTask, Trained


class Loop:
    """Trains clients one by one; parameters are views into one flat buffer, updated in place.

    Per-example clipping computes the gradient of one example at a time.
    """

    name = "loop"

    def __init__(self, task: LossTask):
        self._task = task
        self._model = FlatModule(task.module, task.device)
        self._model.module.train()

    def twin(self) -> Loop:
        """Another one, for another thread."""
        return Loop(self._task)

    def train(self, chunk: Chunk) -> Trained:
        """Train every row of the chunk."""
        updates = torch.empty(len(chunk), self._task.spec.size, device=self._task.device)
        losses = torch.empty(len(chunk), device=self._task.device)
        for row in range(len(chunk)):
            start = chunk.starts[chunk.start_of[row]]
            losses[row] = self._train_row(chunk, row, start)
            torch.sub(self._model.flat, start, out=updates[row])
        return Trained(DenseUpdates(updates), losses)

    def _train_row(self, chunk: Chunk, row: int, start: torch.Tensor) -> torch.Tensor:
        model, rule = self._model, chunk.rule
        model.flat.copy_(start)
        model.begin_task(chunk.seeds[row], chunk.clients[row], chunk.tasks[row])
        noise = _noise_stream(chunk, row, rule.example_clipping, self._task.device)
        buffer = torch.empty_like(model.flat) if rule.momentum else None
        correction = None if rule.correction is None else rule.correction[row]
        total, batches = torch.zeros((), device=self._task.device), 0
        rates = rule.rates[row].tolist()
        for step in range(chunk.steps[row]):
            loss = self._gradient(chunk, row, step, noise)
            if loss is not None:
                total, batches = total + loss, batches + 1
            apply_rule(model.flat, model.gradient, start, buffer, rates[step], rule, correction, step == 0)
        return total / batches if batches else torch.full_like(total, float("nan"))

    def _gradient(self, chunk: Chunk, row: int, step: int, noise: Any) -> torch.Tensor | None:
        """Leave the batch gradient in the buffer; the mean loss of the batch, or None if it is empty."""
        model, count = self._model, int(chunk.counts[row, step])
        denominator = float(chunk.denominators[row, step])
        indices = chunk.indices[row, step, :count]
        clipping = chunk.rule.example_clipping
        model.gradient.zero_()
        loss = None
        if count and clipping is None:
            losses = self._losses(indices)
            (losses.sum() / denominator).backward()
            loss = losses.detach().mean()
        elif count and clipping is not None:
            loss = self._clipped_sum(indices, clipping)
        if clipping is not None:
            model.gradient.add_(_noise(chunk.noise_stds[row], model.gradient, noise)).div_(denominator)
        return loss

    def _losses(self, indices: torch.Tensor) -> torch.Tensor:
        task = self._task
        inputs = task.inputs[indices]
        with lowered(task.device, task.bfloat16):
            outputs = self._model.module(inputs)
        return task.loss(outputs.float(), task.targets[indices])

    def _clipped_sum(self, indices: torch.Tensor, clipping: ExampleClipping) -> torch.Tensor:
        total = torch.zeros_like(self._model.gradient)
        losses = []
        for i in range(len(indices)):
            self._model.gradient.zero_()
            loss = self._losses(indices[i : i + 1]).sum()
            loss.backward()
            self._clip_example(clipping)
            total += self._model.gradient
            losses.append(loss.detach())
        self._model.gradient.copy_(total)
        return torch.stack(losses).mean()

    def _clip_example(self, clipping: ExampleClipping) -> None:
        gradient, ends = self._model.gradient, self._task.spec.offsets
        if clipping.per_layer is None:
            scale_examples(gradient, clipping_factors(clipping, gradient.norm(), clipping.clipping_norm))
            return
        for i, bound in enumerate(clipping.per_layer):
            piece = gradient[ends[i] : ends[i + 1]]
            scale_examples(piece, clipping_factors(clipping, piece.norm(), bound))


def _noise_stream(chunk: Chunk, row: int, clipping: ExampleClipping | None, device: torch.device) -> Any:
    if clipping is None or chunk.noise_stds[row] == 0.0:
        return None
    return clipping.draws(device, chunk.seeds[row], chunk.clients[row], chunk.tasks[row])


def _noise(noise_std: float, like: torch.Tensor, noise: Any) -> torch.Tensor:
    if noise is None:
        return torch.zeros_like(like)
    return torch.as_tensor(noise.normal(like.shape)) * noise_std
