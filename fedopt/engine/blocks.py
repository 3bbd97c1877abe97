"""How many rows are trained at once, so that they fit the device's memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch

from fedopt.engine import memory
from fedopt.engine.base import LocalRule
from fedopt.engine.select import build
from fedopt.engine.tasks import LossTask, Trained

SHARE = 0.8  # of a card's memory; the rest is for libraries' workspaces and fragmentation


def device_budget(device: torch.device, taken: int) -> int | None:
    """Bytes that training may use on a CUDA device, whose examples take ``taken``; None (no limit) on a CPU.

    From the size of the card, not from what is free now: that changes, and the block decides the bits.
    """
    if device.type != "cuda":
        return None
    return int(SHARE * torch.cuda.get_device_properties(device).total_memory) - taken


class Blocks:
    """Cuts rows into blocks that fit.

    Args:
        task: model and data.
        budget: bytes, or None for no limit.
    """

    def __init__(self, task: LossTask, budget: int | None):
        self._task, self._budget = task, budget
        self._known: dict[Any, memory.Prediction | None] = {}
        self._most: int | None = None

    def rows(self, wanted: int, name: str, rule: LocalRule, steps: int, width: int, starts: int) -> int:
        """At most ``wanted`` rows, as many as fit by prediction and by experience.

        Args:
            wanted: rows one would like to train at once.
            name: formulation.
            rule, steps, width, starts: as in ``fedopt.engine.memory.predict``.
        """
        if self._most is not None:
            wanted = min(wanted, self._most)
        if self._budget is None or steps == 0:
            return wanted
        predicted = self.prediction(name, rule, steps, width, starts)
        return wanted if predicted is None else min(wanted, predicted.rows(self._budget))

    def prediction(self, name: str, rule: LocalRule, steps: int, width: int, starts: int) -> memory.Prediction | None:
        """Bytes of a block; steps and width are rounded up to a power of two, so that few are asked for.

        None, and a warning, where the module cannot run without numbers: then only running out says what is too much.
        """
        steps, width = _power(steps), _power(max(1, width))
        if name in ("loop", "vmap"):
            steps = min(steps, 2)  # they keep nothing from step to step
        options = tuple(
            (field.name, getattr(rule, field.name))
            for field in fields(rule)
            if field.name not in ("rates", "correction", "example_clipping")
        )
        clipped = rule.example_clipping is not None
        key = (name, options, clipped, rule.correction is not None, steps, width, starts > 1)
        if key not in self._known:
            self._known[key] = self._predicted(name, rule, steps, width, starts)
        return self._known[key]

    def _predicted(self, name: str, rule: LocalRule, steps: int, width: int, starts: int) -> memory.Prediction | None:
        try:
            return memory.predict(self._task, lambda task: build(task, name), rule, steps, width, starts)
        except RuntimeError as error:  # what PyTorch raises, of whatever kind; a real error comes again in training
            warnings.warn(
                f"the memory of this model cannot be predicted without running it ({error}); if it does not fit, "
                "blocks are halved until it does",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def train(self, rows: Sequence[int], train: Callable[[Sequence[int]], Trained]) -> list[Trained]:
        """Train rows, in halves where memory runs out all the same.

        Raises:
            ValueError: a single client does not fit.
        """
        try:
            return [train(rows)]
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise ValueError(
                    f"one client's work does not fit the memory of {self._task.device} ({error}); lower "
                    "client.batch_size or engine.memory_gib, or use engine.formulation: loop"
                ) from error
        # Not inside the handler: the failed attempt's tensors live until its traceback is gone.
        half = self._most = (len(rows) + 1) // 2
        warnings.warn(
            f"{len(rows)} clients at once did not fit the memory of {self._task.device}; going on with {half}",
            RuntimeWarning,
            stacklevel=2,
        )
        return [*self.train(rows[:half], train), *self.train(rows[half:], train)]


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
