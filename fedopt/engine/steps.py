"""What the steps of a chunk need, looked up once and stored step after step: examples, weights, rates, losses."""

from __future__ import annotations

import numpy as np
import torch

from fedopt.engine.tasks import Chunk, LossTask
from fedopt.engine.transfer import to_device


class Steps:
    """Step-major tables of a chunk; ``rows`` are always the active prefix of a step.

    Args:
        chunk: the rows.
        task: targets and device.
    Attributes:
        indices: examples ``[steps, rows, batch]``.
        targets: their targets ``[steps, rows, batch, ...]``.
        real: 1 for examples, 0 for padding ``[steps, rows, batch]``.
        scales: one over the denominators ``[steps, rows]``.
        weights: what an output gradient is multiplied by ``[steps, rows, batch, 1]``: ``real``, and the scale unless
            examples are clipped (then the scale belongs behind the clipping).
    """

    def __init__(self, chunk: Chunk, task: LossTask):
        device = task.device
        self.indices = chunk.indices.transpose(0, 1).contiguous()
        steps, rows, width = self.indices.shape
        chosen = task.targets.index_select(0, self.indices.flatten())
        self.targets = chosen.view(steps, rows, width, *chosen.shape[1:])
        columns = np.arange(width)
        self.real = to_device(columns < chunk.counts.T[..., None], device, torch.float32)
        self.scales = to_device(1.0 / chunk.denominators.T, device, torch.float32)
        clipped = chunk.rule.example_clipping is not None
        self.weights = (self.real if clipped else self.real * self.scales[..., None]).unsqueeze(-1)
        self._losses = torch.zeros(steps, rows, width, device=device)
        self._counts = to_device(chunk.counts.T, device, torch.float32)
        self._host_rates, self._rates = chunk.rule.rates, chunk.rates
        first = self._host_rates.flatten()[:1]
        self._rate = float(first) if bool((self._host_rates == first).all()) else None

    def rate(self, step: int, rows: int) -> torch.Tensor | float:
        """Learning rate of a step: one number where the rows agree, else ``[rows]``."""
        if self._rate is not None:
            return self._rate
        values = self._host_rates[:rows, step].tolist()
        return values[0] if len(set(values)) == 1 else self._rates[:rows, step]

    def record(self, step: int, losses: torch.Tensor) -> None:
        """Remember the losses ``[rows, batch]`` of a step."""
        self._losses[step, : len(losses)] = losses

    def mean_losses(self) -> torch.Tensor:
        """Mean over the non-empty batches of each row's mean batch loss ``[rows]``; nan without any."""
        means = (self._losses * self.real).sum(-1) / self._counts.clamp(min=1)
        return means.sum(0) / (self._counts > 0).sum(0)
