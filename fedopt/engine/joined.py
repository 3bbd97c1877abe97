"""Rows of several runs in one pass: chunks joined into larger ones, results handed back chunk by chunk.

A row carries all that tells its run apart: starting point, examples, learning rates, correction, random streams and
noise. So rows of runs with equal models can be trained in one chunk wherever the rest of their rule is equal.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from fedopt.engine.base import LocalRule
from fedopt.engine.engine import MOST_ROWS, CohortEngine
from fedopt.engine.tasks import Chunk, LossTask, Trained

# Numbers that the rows of a pass may keep in use together (8 MiB): beyond the cache a pass is slower than its chunks.
CACHED_FLOATS = 2**21
# A pass pads every batch to its widest; chunks of less than this share of that width have a pass of their own.
LEAST_WIDTH = 0.67


class Member(NamedTuple):
    """One run's part in shared passes.

    Args:
        engine: of the run.
        offset: where its examples begin among those of all runs.
    """

    engine: CohortEngine
    offset: int

    def alone(self, chunk: Chunk) -> Trained:
        """Train a chunk as the run would do on its own."""
        return self.engine.formulation_for(chunk.rule).train(chunk)  # type: ignore[no-any-return]


def joins(engine: CohortEngine) -> bool:
    """Whether rows of several runs may share a pass: a CPU, and a formulation of batched operations."""
    formulation = engine.formulation
    return engine.device.type == "cpu" and hasattr(formulation, "over") and formulation.over(engine.task) is not None


def structure(engine: CohortEngine) -> Hashable:
    """Equal for engines whose chunks can be joined: same architecture, loss, arithmetic and device."""
    task = engine.task
    shapes = (task.spec, task.task, tuple(task.inputs.shape[1:]), tuple(task.targets.shape[1:]))
    return (repr(task.module), shapes, engine.selection.formulation, str(engine.device), engine.dtype)


class JoinedRuns:
    """Trains the chunks of runs of one structure in as few passes as the cache allows.

    Args:
        engines: one of each run, all of one ``structure``, all of which ``joins``.
    """

    def __init__(self, engines: Sequence[CohortEngine]):
        distinct: list[LossTask] = []
        owners = []
        for engine in engines:
            found = next((k for k, task in enumerate(distinct) if _same_examples(task, engine.task)), None)
            if found is None:
                found = len(distinct)
                distinct.append(engine.task)
            owners.append(found)
        begins = np.cumsum([0, *(len(task.targets) for task in distinct)])
        self.members = [Member(engine, int(begins[k])) for engine, k in zip(engines, owners, strict=True)]
        task = distinct[0]
        if len(distinct) > 1:
            inputs, targets = torch.cat([t.inputs for t in distinct]), torch.cat([t.targets for t in distinct])
            task = replace(task, inputs=inputs, targets=targets)
        self._formulation = engines[0].formulation.over(task)

    def train(self, asked: Sequence[tuple[int, Sequence[Chunk]]]) -> list[list[Trained]]:
        """Train chunks of several runs.

        Args:
            asked: (index of the run, its chunks).
        Returns:
            The results of every run's chunks, in the given order.
        """
        answers: list[list[Any]] = [[None] * len(chunks) for _, chunks in asked]
        together: dict[Hashable, list[tuple[int, int]]] = {}
        for position, (run, chunks) in enumerate(asked):
            for place, chunk in enumerate(chunks):
                if chunk.max_steps and self._formulation.supports(chunk.rule):
                    together.setdefault(_rule_key(chunk), []).append((position, place))
                else:
                    answers[position][place] = self.members[run].alone(chunk)
        for names in together.values():
            for group in self._passes([(name, asked[name[0]][1][name[1]]) for name in names]):
                for (position, place), trained in zip(group, self._pass(asked, group), strict=True):
                    answers[position][place] = trained
        return answers

    def _passes(self, chunks: Sequence[tuple[tuple[int, int], Chunk]]) -> list[list[tuple[int, int]]]:
        """Which chunks share a pass: similar widths, and no more rows than the cache holds."""
        groups: list[list[tuple[int, int]]] = []
        rows = steps = widest = 0
        for name, chunk in sorted(chunks, key=lambda named: -named[1].indices.shape[2]):
            width = chunk.indices.shape[2]
            steps = max(steps, chunk.max_steps)
            most = most_rows(self._formulation, steps, widest or width, chunk.rule)
            if not groups or rows + len(chunk) > most or width < LEAST_WIDTH * widest:
                groups.append([])
                rows, steps, widest = 0, chunk.max_steps, width
            groups[-1].append(name)
            rows += len(chunk)
        return groups

    def _pass(self, asked: Any, group: Sequence[tuple[int, int]]) -> list[Trained]:
        chunks = [asked[position][1][place] for position, place in group]
        members = [self.members[asked[position][0]] for position, _ in group]
        if len(group) == 1:
            return [members[0].alone(chunks[0])]
        joined, places = join(chunks, [member.offset for member in members])
        done = self._formulation.train(joined)
        return [Trained(done.updates.take(place), done.losses[place]) for place in places]


def most_rows(formulation: Any, steps: int, width: int, rule: LocalRule) -> int:
    """Rows of ``steps`` batches of ``width`` examples that one pass should hold."""
    return min(MOST_ROWS, CACHED_FLOATS // max(1, formulation.floats_per_row(steps, width, rule)))


def _same_examples(first: LossTask, second: LossTask) -> bool:
    pairs = ((first.inputs, second.inputs), (first.targets, second.targets))
    return all((a.data_ptr() == b.data_ptr() and a.shape == b.shape) or torch.equal(a, b) for a, b in pairs)


def _rule_key(chunk: Chunk) -> Hashable:
    """Equal for chunks whose rules differ in nothing but what rows carry."""
    rule, clipping = chunk.rule, chunk.rule.example_clipping
    same = None if clipping is None else (replace(clipping, noise_std=0.0), any(chunk.noise_stds))
    plain = (rule.momentum, rule.nesterov, rule.weight_decay, rule.proximal, rule.gradient_clip)
    return (*plain, rule.correction is None, same)


def join(chunks: Sequence[Chunk], offsets: Sequence[int]) -> tuple[Chunk, list[list[int]]]:
    """One chunk of all rows, in descending number of steps.

    Args:
        chunks: with equal rules but for rates, corrections and noise.
        offsets: added to the example indices of each chunk.
    Returns:
        The chunk, and where the rows of every given chunk are in it.
    """
    rows = [(k, row) for k, chunk in enumerate(chunks) for row in range(len(chunk))]
    order = sorted(range(len(rows)), key=lambda i: -chunks[rows[i][0]].steps[rows[i][1]])
    steps, width = max(c.max_steps for c in chunks), max(c.indices.shape[2] for c in chunks)
    indices = [_padded_indices(c.indices + offset, steps, width) for c, offset in zip(chunks, offsets, strict=True)]
    starts: list[torch.Tensor] = []
    start_of: list[int] = []
    for chunk in chunks:
        start_of += [len(starts) + k for k in chunk.start_of]
        starts += chunk.starts
    start_index = torch.tensor([start_of[i] for i in order])
    first = chunks[0].rule
    rates = torch.cat([_padded(c.rule.rates, steps) for c in chunks])[order]
    corrections = [c.rule.correction for c in chunks if c.rule.correction is not None]
    correction = torch.cat(corrections)[order] if corrections else None

    def flat(name: str) -> tuple[Any, ...]:
        values = [value for chunk in chunks for value in getattr(chunk, name)]
        return tuple(values[i] for i in order)

    joined_indices = torch.cat(indices)[order]
    joined = Chunk(
        clients=flat("clients"),
        tasks=flat("tasks"),
        starts=starts,
        start_of=tuple(start_index.tolist()),
        start_index=start_index,
        indices=joined_indices,
        host_indices=joined_indices.numpy(),
        rates=rates,
        counts=np.concatenate([_padded_counts(c.counts, steps, 0) for c in chunks])[order],
        denominators=np.concatenate([_padded_counts(c.denominators, steps, 1) for c in chunks])[order],
        steps=flat("steps"),
        rule=replace(first, rates=rates, correction=correction),
        seeds=flat("seeds"),
        noise_stds=flat("noise_stds"),
    )
    places: list[list[int]] = [[0] * len(chunk) for chunk in chunks]
    for position, i in enumerate(order):
        k, row = rows[i]
        places[k][row] = position
    return joined, places


def _padded(values: torch.Tensor, *sizes: int) -> torch.Tensor:
    """Zeros behind the values along the axes after the first, up to ``sizes``."""
    missing = [size - have for size, have in zip(sizes, values.shape[1:], strict=True)]
    return torch.nn.functional.pad(values, [p for gap in reversed(missing) for p in (0, gap)])


def _padded_indices(values: torch.Tensor, steps: int, width: int) -> torch.Tensor:
    """Indices ``[rows, steps, batch]`` where padding repeats the row's own first example (see ``BatchPlan``)."""
    if not values.numel():
        return _padded(values, steps, width)
    made = values[:, :1, :1].repeat(1, steps, width)
    made[:, : values.shape[1], : values.shape[2]] = values
    return made


def _padded_counts(values: np.ndarray, steps: int, filling: float) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, steps - values.shape[1])), constant_values=filling)
