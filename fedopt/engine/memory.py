"""How much memory training a block of clients takes: predicted before, and respected.

A formulation is run on PyTorch's ``meta`` device, whose tensors have sizes and no numbers, and the bytes alive at once
are added up. Two small blocks give the line ``fixed + per_row * rows``, which holds for every formulation: what they
keep has one axis over rows. So any module is covered, and nothing is allocated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedopt.engine.base import LocalRule
from fedopt.engine.tasks import Chunk, LossTask

META = torch.device("meta")
PROBED = (2, 4)  # rows of the two blocks; a single row is a special case of some formulations
ROUNDED = 512  # CUDA's allocator hands out multiples of this many bytes


@dataclass(frozen=True)
class Prediction:
    """Bytes of a block: ``fixed + per_row * rows``."""

    fixed: int
    per_row: int

    def bytes(self, rows: int) -> int:
        """Peak of a block of so many rows, its updates included."""
        return self.fixed + self.per_row * rows

    def rows(self, budget: int) -> int:
        """Most rows that fit, at least 1."""
        return max(1, (budget - self.fixed) // max(1, self.per_row))


class MemoryMeter(TorchDispatchMode):
    """Adds up the bytes of tensors made inside on one device; ``peak`` is the most that were alive at once."""

    def __init__(self, device: torch.device = META):
        super().__init__()
        self.device, self.peak = device, 0
        self._alive: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and each.device.type == self.device.type:
                storage = each.untyped_storage()
                if storage._cdata not in given:
                    size = -(-storage.nbytes() // ROUNDED) * ROUNDED
                    self._alive[storage._cdata] = (StorageWeakRef(storage), size)
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def predict(
    task: LossTask, build: Callable[[LossTask], Any], rule: LocalRule, steps: int, width: int, starts: int = 1
) -> Prediction:
    """Predict blocks of clients with ``steps`` batches of ``width`` examples each.

    Args:
        task: model and data; only their sizes are used.
        build: makes the formulation of a task.
        rule: only its options are used, not its rates.
        steps, width: of the longest client and the largest batch.
        starts: distinct models the rows start from.
    """
    like = replace(
        task,
        module=copy.deepcopy(task.module).to(META),
        inputs=task.inputs.to(META),
        targets=task.targets.to(META),
    )
    formulation = build(like)
    low, high = (_peak(like, formulation, rule, rows, steps, width, starts) for rows in PROBED)
    per_row = -(-(high - low) // (PROBED[1] - PROBED[0]))
    return Prediction(max(0, low - PROBED[0] * per_row), per_row)


def _peak(task: LossTask, formulation: Any, rule: LocalRule, rows: int, steps: int, width: int, starts: int) -> int:
    meter = MemoryMeter()
    with meter:
        trained = formulation.train(_chunk(task, rule, rows, steps, width, starts))
        del trained
    return meter.peak


def _chunk(task: LossTask, rule: LocalRule, rows: int, steps: int, width: int, starts: int) -> Chunk:
    """Rows of full batches without repeats: what takes most memory."""
    size, distinct = task.spec.size, min(starts, rows)
    indices = np.arange(rows * steps * width, dtype=np.int64).reshape(rows, steps, width)
    counts = np.full((rows, steps), width, np.int64)
    start_of = tuple(row % distinct for row in range(rows))
    if rule.example_clipping is not None:
        rule = replace(rule, example_clipping=replace(rule.example_clipping, noise=_NoNumbers()))
    correction = None if rule.correction is None else torch.empty(rows, size, device=META)
    # Different rates take the general path, which keeps more.
    rates = torch.arange(1.0, rows + 1)[:, None].expand(rows, steps)
    return Chunk(
        clients=tuple(range(rows)),
        tasks=(0,) * rows,
        starts=[torch.empty(size, device=META) for _ in range(distinct)],
        start_of=start_of,
        start_index=torch.empty(rows, dtype=torch.int64, device=META),
        indices=torch.empty(indices.shape, dtype=torch.int64, device=META),
        host_indices=indices,
        rates=torch.empty(rows, steps, device=META),
        counts=counts,
        denominators=counts.astype(np.float64),
        steps=(steps,) * rows,
        rule=replace(rule, rates=rates, correction=correction),
        seeds=(0,) * rows,
        noise_stds=(0.0 if rule.example_clipping is None else rule.example_clipping.noise_std,) * rows,
    )


class _NoNumbers:
    """Noise that has a size only."""

    def example_draws(self, device: Any, purpose: str, client: int, task: int) -> _NoNumbers:
        """Itself."""
        return self

    def normal(self, shape: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor of this shape."""
        return torch.empty(tuple(shape), dtype=dtype, device=META)
