"""What a formulation is given: the examples on the device, and one chunk of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fedopt.engine.base import BatchPlan, Cohort, LocalRule, UpdateBatch
from fedopt.engine.losses import ExampleLoss
from fedopt.engine.transfer import rows_at, to_device
from fedopt.types import ParamSpec, Task


class Trained(NamedTuple):
    """Result of local training."""

    updates: UpdateBatch  # end minus start, one row per cohort member
    losses: torch.Tensor  # shape [rows]: mean over the steps of the batch losses; nan where no example was used


@dataclass(frozen=True)
class LossTask:
    """A model, its loss, and the training examples on the device.

    Args:
        task: shapes and kind.
        spec: names and shapes of the flat parameters.
        module: the module; formulations copy it and never change it.
        loss: loss of every example.
        inputs, targets: training examples ``[n, ...]`` on the device.
        seed: run seed.
        bfloat16: run the forward and backward pass under bfloat16 autocast.
    """

    task: Task
    spec: ParamSpec
    module: nn.Module
    loss: ExampleLoss
    inputs: torch.Tensor
    targets: torch.Tensor
    seed: int
    bfloat16: bool = False

    @property
    def device(self) -> torch.device:
        """Where the examples are."""
        return self.inputs.device


@dataclass(frozen=True)
class Chunk:
    """Rows of a cohort that are computed together, in descending number of steps.

    Args:
        clients, tasks: name the random streams.
        starts: distinct starting points ``[d]``; ``start_of[row]`` says which one a row has.
        start_index: ``start_of`` on the device.
        indices: ``[rows, steps, batch]`` int64 on the device; ``host_indices`` are the same as NumPy.
        rates: of the rule, ``[rows, steps]`` on the device.
        counts, denominators: ``[rows, steps]`` NumPy, as in ``BatchPlan``.
        steps: per row, descending.
        rule: its rates ``[rows, steps]`` and correction ``[rows, d]`` are those of the chunk.
        seeds: of the run each row belongs to.
        noise_stds: noise of the rule's example clipping, of every row; 0 without.
    """

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    starts: list[torch.Tensor]
    start_of: tuple[int, ...]
    start_index: torch.Tensor
    indices: torch.Tensor
    host_indices: np.ndarray
    rates: torch.Tensor
    counts: np.ndarray
    denominators: np.ndarray
    steps: tuple[int, ...]
    rule: LocalRule
    seeds: tuple[int, ...]
    noise_stds: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def max_steps(self) -> int:
        """Steps of the longest row."""
        return max(self.steps, default=0)

    def active(self, step: int) -> int:
        """Rows that still work at ``step``: a prefix, because rows are sorted."""
        return sum(1 for count in self.steps if count > step)

    def stacked_starts(self) -> torch.Tensor:
        """Starting point of every row ``[rows, d]``, a fresh copy."""
        if len(self.starts) == 1:
            return self.starts[0].expand(len(self), -1).clone()
        return torch.stack(self.starts).index_select(0, self.start_index)


def even_blocks(steps: Sequence[int], rows: int, most: int) -> list[slice]:
    """Cut rows into ``ceil(n / rows)`` blocks with about equal numbers of steps, so that threads finish together.

    Rows with many steps then share a block with fewer others, which also keeps padding small.

    Args:
        steps: per row, descending.
        rows: rows of a block on average.
        most: rows of the largest block.
    """
    count = -(-len(steps) // rows)
    share = sum(max(1, each) for each in steps) / max(1, count)
    cuts: list[slice] = []
    begin, work = 0, 0.0
    for end in range(1, len(steps) + 1):
        work += max(1, steps[end - 1])
        if end == len(steps) or work >= share * (len(cuts) + 1) - 1e-9 or end - begin == most:
            cuts.append(slice(begin, end))
            begin = end
    return cuts


def make_chunk(cohort: Cohort, rule: LocalRule, plan: BatchPlan, rows: Sequence[int], device: torch.device) -> Chunk:
    """Cut some rows (already in descending steps) out of a cohort and its plan."""
    distinct, start_of = cohort.distinct("params")
    used = sorted({start_of[r] for r in rows})
    position = {start: i for i, start in enumerate(used)}
    selected = list(rows)
    steps = tuple(int(plan.steps[r]) for r in selected)
    longest = max(steps, default=0)
    indices = plan.indices[selected, :longest]
    width = max(1, int(plan.counts[selected, :longest].max(initial=0)))  # an empty Poisson batch is one padded slot
    if indices.shape[2] == 0:
        indices = np.zeros((*indices.shape[:2], 1), np.int64)
    indices = np.ascontiguousarray(indices[:, :, :width])
    correction = None if rule.correction is None else rows_at(rule.correction, selected).to(device)
    rates = rows_at(rule.rates, selected)[:, :longest]
    start_of_rows = tuple(position[start_of[r]] for r in selected)
    return Chunk(
        clients=tuple(cohort.clients[r] for r in selected),
        tasks=tuple(cohort.tasks[r] for r in selected),
        starts=[distinct[i].to(device) for i in used],
        start_of=start_of_rows,
        start_index=to_device(start_of_rows, device, torch.int64),
        indices=to_device(indices, device),
        host_indices=indices,
        rates=to_device(rates, device),
        counts=plan.counts[selected, :longest],
        denominators=plan.denominators[selected, :longest],
        steps=steps,
        rule=replace(rule, rates=rates, correction=correction),
        seeds=(cohort.seed,) * len(selected),
        noise_stds=(0.0 if rule.example_clipping is None else rule.example_clipping.noise_std,) * len(selected),
    )
