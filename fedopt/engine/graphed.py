"""The graphed formulation: every local step is one and the same list of kernels, replayed as a CUDA graph.

A step of a small network is a few dozen kernels of a few microseconds, and launching them takes the host longer than
running them. So all that differs from step to step (which examples, rates, who still works) is written into buffers
first, rows that are padded move by exactly zero, and a counter on the device says which step it is. Then nothing
depends on the host: on a CUDA device the step is captured once per number of rows and replayed; elsewhere it runs as it
is, with the same numbers.

Rows are sorted by their number of steps, and rows that are done are left out: the number of rows is rounded up, to a
sixteenth of a power of two for a chunk and to a quarter for what remains of it, so that few graphs are needed.

References: Nguyen et al. 2021, Accelerating PyTorch with CUDA Graphs (pytorch.org/blog).
"""

from __future__ import annotations

import torch
from torch import nn

from fedopt.engine.base import LocalRule
from fedopt.engine.chains import layers_of, parameters_refusal
from fedopt.engine.replay import Replay
from fedopt.engine.static_layers import static_refusal
from fedopt.engine.tasks import Chunk, LossTask, Trained
from fedopt.engine.transfer import to_device

MOST_WIDTHS = 4  # batch sizes whose buffers are kept


class Graphed:
    """Trains a chunk of clients by replaying one step.

    Args:
        task: the model and data; the model must be a chain of layers that ``static_refusal`` has nothing against.
    """

    name = "graphed"
    preferred_rows = 8

    def __init__(self, task: LossTask):
        reason = graphed_refusal(task)
        if reason is not None:
            raise ValueError(f"the graphed formulation does not apply: {reason}")
        self._task = task
        self._replays: dict[int, Replay] = {}

    def twin(self) -> Graphed:
        """Another one, for another thread."""
        return Graphed(self._task)

    @staticmethod
    def supports(rule: LocalRule) -> bool:
        """Plain steps with weight decay: ``y <- (1 - rate * decay) * y - rate * g``."""
        special = rule.momentum or rule.proximal or rule.gradient_clip is not None
        return not special and rule.correction is None and rule.example_clipping is None

    @torch.no_grad()
    def train(self, chunk: Chunk) -> Trained:
        """Train every row of the chunk."""
        rows, steps, width = chunk.indices.shape
        replay, starts = self._replay(rows, steps, width), chunk.stacked_starts()
        replay.load(chunk, starts)
        most, decays = rounded(rows, 16), bool(chunk.rule.weight_decay)
        for step in range(chunk.max_steps):
            replay.step(min(most, rounded(chunk.active(step), 4)) if step else most, decays)
        batches = to_device((chunk.counts > 0).sum(1), self._task.device, torch.float32)
        return Trained(replay.updates(starts), replay.losses[:rows] / batches)

    def _replay(self, rows: int, steps: int, width: int) -> Replay:
        """Buffers that are large enough, of this width; the most recently used are kept."""
        found = self._replays.pop(width, None)
        if found is None or not found.fits(rounded(rows, 16), steps):
            least = (0, 0) if found is None else (found.capacity, found.steps)
            capacity, longest = max(least[0], rounded(rows, 16)), max(least[1], _power(max(1, steps)))
            del found  # its memory, before the new one takes its own
            layers = layers_of(self._task.module)
            found = Replay(self._task, layers, capacity, longest, width)
        self._replays[width] = found
        if len(self._replays) > MOST_WIDTHS:
            del self._replays[next(iter(self._replays))]
        return found


def graphed_refusal(task: LossTask) -> str | None:
    """Why a task cannot be computed by replaying a step, or None."""
    layers = layers_of(task.module)
    strange = [reason for reason in map(static_refusal, layers) if reason is not None]
    if strange or not any(isinstance(layer, nn.Linear | nn.Conv2d) for layer in layers):
        return f"the model is not a chain of layers it knows ({', '.join(strange) or 'nothing to train'})"
    if (reason := parameters_refusal(p for layer in layers for p in layer.parameters())) is not None:
        return reason
    if task.task.kind not in ("classification", "regression"):
        return f"no closed-form loss gradient for {task.task.kind}"
    return None


def rounded(number: int, parts: int) -> int:
    """The number, rounded up to a whole multiple of the power of two above it over ``parts``.

    >>> rounded(50, 16), rounded(50, 4), rounded(3, 16)
    (52, 64, 3)
    """
    unit = max(1, _power(number) // parts)
    return -(-number // unit) * unit


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
