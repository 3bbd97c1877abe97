"""The objective formulation: gradient steps on functions with exact gradients, over the whole chunk at once."""

from __future__ import annotations

from typing import Any

import torch

from fedopt.engine.base import DenseUpdates
from fedopt.engine.rules import apply_rule
from fedopt.engine.tasks import Chunk, Trained
from fedopt.engine.transfer import to_device


class ObjectiveSteps:
    """Trains points of a black-box task by its gradients; batch plans only say how many steps."""

    name = "objective"

    def __init__(self, objective: Any, device: torch.device):
        self._objective = objective
        self._device = device

    def twin(self) -> ObjectiveSteps:
        """Itself: it keeps nothing."""
        return self

    def train(self, chunk: Chunk) -> Trained:
        """Gradient steps of every row.

        Raises:
            ValueError: the objective has no gradients, or per-example clipping is asked for.
        """
        if not self._objective.has_gradients:
            raise ValueError("this objective gives values only; use a zeroth-order client instead of sgd")
        if chunk.rule.example_clipping is not None:
            raise ValueError("an objective has no examples to clip; use client-level privacy")
        starts = chunk.stacked_starts()
        points, rule = starts.clone(), chunk.rule
        buffers = torch.zeros_like(points) if rule.momentum else None
        clients = to_device(chunk.clients, self._device)
        losses = torch.zeros(len(chunk), device=self._device)
        for step in range(chunk.max_steps):
            rows = chunk.active(step)
            losses[:rows] += self._objective.values(clients[:rows], points[:rows, None])[:, 0]
            apply_rule(
                points[:rows],
                self._objective.gradients(clients[:rows], points[:rows]).clone(),
                starts[:rows],
                None if buffers is None else buffers[:rows],
                chunk.rates[:rows, step],
                rule,
                None if rule.correction is None else rule.correction[:rows],
                step == 0,
            )
        counts = to_device(chunk.steps, self._device)
        return Trained(DenseUpdates(points.sub_(starts)), losses / counts)
