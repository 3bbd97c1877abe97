"""One parameter of every client of a chunk: its values, its momentum buffer, and its share of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedopt.engine.base import LocalRule
from fedopt.engine.rules import apply_rule
from fedopt.engine.tasks import Chunk


@dataclass(frozen=True)
class StepContext:
    """What a layer needs to know to update its parameters at one step.

    Args:
        rows: active rows, a prefix.
        rates: learning rates ``[rows]``, or one number where they are equal.
        rule: the local rule.
        first: first step of the task.
        noise: noise added to the batch gradients ``[rows, d]`` (already divided), or None.
    """

    rows: int
    rates: torch.Tensor | float
    rule: LocalRule
    first: bool
    noise: torch.Tensor | None

    @property
    def is_plain(self) -> bool:
        """Whether the step is ``y <- (1 - rate * weight_decay) * y - rate * g``: no gradient need exist."""
        rule = self.rule
        special = rule.momentum or rule.proximal or rule.gradient_clip is not None or rule.correction is not None
        return not special and isinstance(self.rates, float)


class RowsParameter:
    """Values ``[rows, *shape]`` of one parameter for every row of a chunk, started from each row's start."""

    def __init__(self, chunk: Chunk, begin: int, end: int, shape: tuple[int, ...]):
        rows = len(chunk)
        self.begin, self.end = begin, end
        pieces = [start[begin:end].view(shape) for start in chunk.starts]
        if len(pieces) == 1:
            self.start = pieces[0][None]
            self.values = self.start.expand(rows, *shape).contiguous()
            if rows == 1:
                self.values = self.values.clone()
        else:
            self.start = torch.stack(pieces).index_select(0, chunk.start_index)
            self.values = self.start.clone()
        rule = chunk.rule
        self.buffer = torch.empty(rows, end - begin, device=self.values.device) if rule.momentum else None
        self.correction = None if rule.correction is None else rule.correction[:, begin:end]

    def flat(self, rows: int) -> torch.Tensor:
        """The values of the first rows as a view ``[rows, size]``."""
        return self.values[:rows].flatten(1)

    def regularise(self, gradient: torch.Tensor, context: StepContext) -> None:
        """Add noise, weight decay, proximal term and correction to a gradient ``[rows, size]``, in place."""
        rule, rows = context.rule, context.rows
        if context.noise is not None:
            gradient.add_(context.noise[:, self.begin : self.end])
        if rule.weight_decay:
            gradient.add_(self.flat(rows), alpha=rule.weight_decay)
        if rule.proximal:
            gradient.add_((self.values[:rows] - self.start[:rows]).flatten(1), alpha=rule.proximal)
        if self.correction is not None:
            gradient.add_(self.correction[:rows])

    def move(self, gradient: torch.Tensor, context: StepContext) -> None:
        """Momentum and step along a regularised, clipped gradient ``[rows, size]`` (overwritten)."""
        rows, buffer = context.rows, self.buffer
        points = self.flat(rows)
        plain = LocalRule(context.rule.rates, context.rule.momentum, context.rule.nesterov)
        buffers = None if buffer is None else buffer[:rows]
        apply_rule(points, gradient, points, buffers, context.rates, plain, None, context.first)

    def update(self) -> torch.Tensor:
        """End minus start ``[rows, size]``; overwrites the values."""
        return self.values.sub_(self.start).flatten(1)
