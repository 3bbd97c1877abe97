"""Noise of DP-SGD inside clients: one named stream per client, so that blocks do not change what is drawn."""

from __future__ import annotations

import numpy as np
import torch

from fedopt.engine.rows import RowsParameter, StepContext
from fedopt.engine.tasks import Chunk, LossTask
from fedopt.engine.transfer import to_device


class NoiseStreams:
    """One stream of noise per client, so that chunking does not change what is drawn."""

    def __init__(self, chunk: Chunk, task: LossTask):
        clipping = chunk.rule.example_clipping
        self.active = clipping is not None and any(std > 0.0 for std in chunk.noise_stds)
        if clipping is None or not self.active:
            return
        self._stds = to_device(chunk.noise_stds, task.device, torch.float32)
        names = zip(chunk.seeds, chunk.clients, chunk.tasks, strict=True)
        self._streams = [clipping.draws(task.device, seed, c, t) for seed, c, t in names]
        self._shape, self._device = (len(chunk), task.spec.size), task.device
        self._scales = (np.array(chunk.noise_stds)[:, None] / chunk.denominators).tolist()
        self._steps = 0

    def draw(self, rows: int, scales: torch.Tensor) -> torch.Tensor:
        """Noise of one step for the active rows, divided by the denominators ``[rows, d]``."""
        self._steps += 1
        return self._drawn(rows).mul_((self._stds[:rows] * scales)[:, None])

    def add(self, context: StepContext, parameters: list[RowsParameter]) -> None:
        """Add the noise of one plain step to the parameters; on a CPU row by row, while it is in the cache."""
        step, rate, rows = self._steps, float(context.rates), context.rows
        self._steps += 1
        if self._device.type != "cpu":
            factors = to_device([rate * self._scales[row][step] for row in range(rows)], self._device, torch.float32)
            drawn = self._drawn(rows).mul_(factors[:, None])
            for parameter in parameters:
                parameter.flat(rows).sub_(drawn[:, parameter.begin : parameter.end])
            return
        for row in range(rows):
            drawn = self._streams[row].normal((self._shape[1],))
            for parameter in parameters:
                values = parameter.values[row].view(-1)
                values.add_(drawn[parameter.begin : parameter.end], alpha=-rate * self._scales[row][step])

    def _drawn(self, rows: int) -> torch.Tensor:
        return torch.stack([self._streams[row].normal((self._shape[1],)) for row in range(rows)])
