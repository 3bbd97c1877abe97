"""Which examples a client uses at every local step: batch plans from named streams. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from fedopt.data.base import ClientIndex
from fedopt.engine.base import BatchPlan, Cohort
from fedopt.rng import Rekeyed

Order = Literal["shuffled", "sampled", "poisson"]


def plan_batches(
    cohort: Cohort,
    client_index: ClientIndex,
    batch_size: int | Literal["full"],
    order: Order = "shuffled",
    steps: Sequence[int] | None = None,
    sampling_probability: float | None = None,
    denominator: float | None = None,
) -> BatchPlan:
    """Batches of every row, drawn from the stream (seed, "batches", client, task).

    - ``shuffled``: passes over the client's examples in a fresh random order each; the last batch of a pass is
      smaller where batch_size does not divide n_i. ``E * ceil(n_i / B)`` steps are E epochs.
    - ``sampled``: every batch is a fresh draw of ``min(B, n_i)`` different examples.
    - ``poisson``: every example joins every batch independently with probability q (``sampling_probability``, or
      ``min(1, B / n_i)``); sums are divided by ``denominator``, or ``q * n_i``, never by the drawn count.

    Args:
        cohort: names clients and tasks; rows without examples get no steps, or empty batches where neither
            probability, denominator nor steps depend on them.
        client_index: examples of every client.
        batch_size: B >= 1, or ``full`` for all of a client's examples at every step.
        order: see above.
        steps: local steps per row; ``cohort.steps`` by default.
        sampling_probability: q in (0, 1], for ``poisson``.
        denominator: public constant the summed gradients are divided by; for any order.
    Raises:
        ValueError: unknown order, or ``poisson`` with neither a probability nor a batch size.
    """
    wanted = list(cohort.steps if steps is None else steps)
    rows, owned, streams, draw_row = [], [], Rekeyed(), _draw(order, sampling_probability)
    # Where nothing depends on the examples, having none must not show either: empty batches, and their noise.
    blind = order == "poisson" and sampling_probability is not None and denominator is not None
    for client, task, count in zip(cohort.clients, cohort.tasks, wanted, strict=True):
        examples = client_index.of(client)
        owned.append(examples)
        draw = streams.at(cohort.seed, "batches", client, task)
        size = len(examples) if batch_size == "full" else batch_size
        rows.append(draw_row(draw, examples, size, count if len(examples) or blind else 0))
    plan = _pack(rows, owned)
    if denominator is not None:
        return BatchPlan(plan.indices, plan.counts, plan.steps, np.full(plan.counts.shape, float(denominator)))
    if order != "poisson":
        return plan
    sizes = np.array([len(client_index.of(c)) for c in cohort.clients], dtype=np.float64)
    if sampling_probability is not None:
        expected = sampling_probability * sizes
    else:
        expected = sizes if batch_size == "full" else np.minimum(sizes, float(batch_size))
    return BatchPlan(plan.indices, plan.counts, plan.steps, np.repeat(expected[:, None], plan.counts.shape[1], 1))


def steps_only(cohort: Cohort) -> BatchPlan:
    """A plan without examples, for black-box tasks: ``cohort.steps`` steps per row."""
    shape = (len(cohort), max([0, *cohort.steps]))
    empty = np.zeros((*shape, 0), np.int64)
    return BatchPlan(empty, np.zeros(shape, np.int64), np.array(cohort.steps, np.int64), np.ones(shape))


Row = tuple[np.ndarray, np.ndarray]  # indices [steps, batch], counts [steps]
Draw = Callable[[np.random.Generator, np.ndarray, int, int], Row]


def _draw(order: str, probability: float | None) -> Draw:
    if order == "shuffled":
        return _shuffled
    if order == "sampled":
        return _sampled
    if order == "poisson":
        return lambda draw, examples, size, steps: _poisson(draw, examples, size, steps, probability)
    raise ValueError(f"order must be shuffled, sampled or poisson, got {order!r}")


def _shuffled(draw: np.random.Generator, examples: np.ndarray, size: int, steps: int) -> Row:
    total = len(examples)
    if steps == 0:
        return np.zeros((0, 0), np.int64), np.zeros(0, np.int64)
    width = min(size, total)
    per_pass = -(-total // size)
    passes = -(-steps // per_pass)
    order = np.zeros((passes, per_pass * width), np.int64)
    for i in range(passes):
        order[i, :total] = examples
        draw.shuffle(order[i, :total])
    counts = np.full((passes, per_pass), width, np.int64)
    counts[:, -1] = total - (per_pass - 1) * width
    return order.reshape(-1, width)[:steps], counts.reshape(-1)[:steps]


def _sampled(draw: np.random.Generator, examples: np.ndarray, size: int, steps: int) -> Row:
    width = min(size, len(examples))
    if steps == 0 or width == len(examples):
        return np.tile(examples, (steps, 1)), np.full(steps, width, np.int64)
    chosen = np.stack([draw.choice(len(examples), width, replace=False) for _ in range(steps)])
    return examples[chosen], np.full(steps, width, np.int64)


def _poisson(draw: np.random.Generator, examples: np.ndarray, size: int, steps: int, probability: float | None) -> Row:
    total = len(examples)
    if steps == 0:
        return np.zeros((0, 0), np.int64), np.zeros(0, np.int64)
    q = min(1.0, size / total) if probability is None else probability
    joins = draw.random((steps, total)) < q
    counts = joins.sum(1)
    indices = np.zeros((steps, int(counts.max(initial=0))), np.int64)
    for i in range(steps):
        indices[i, : counts[i]] = examples[joins[i]]
    return indices, counts


def _pack(rows: list[Row], examples: list[np.ndarray]) -> BatchPlan:
    """Rows of one shape; padding repeats an example of the row's own client.

    Padding has weight 0, but 0 times NaN is NaN: no client's examples may stand where another's are added up.
    """
    longest = max((len(counts) for _, counts in rows), default=0)
    width = max((indices.shape[1] for indices, _ in rows), default=0)
    width = max(width, int(longest > 0 and any(map(len, examples))))  # where every Poisson batch is empty
    indices = np.zeros((len(rows), longest, width), np.int64)
    counts = np.zeros((len(rows), longest), np.int64)
    first = np.zeros(len(rows), np.int64)
    for i, (row_indices, row_counts) in enumerate(rows):
        indices[i, : len(row_counts), : row_indices.shape[1]] = row_indices
        counts[i, : len(row_counts)] = row_counts
        first[i] = examples[i][0] if len(examples[i]) else 0
    # Of the same batch where it has one, so that a batch computes nothing but its own examples.
    filling = np.where(counts > 0, indices[:, :, :1].sum(2), first[:, None])
    np.copyto(indices, filling[..., None], where=np.arange(width) >= counts[..., None])
    steps = np.array([len(row_counts) for _, row_counts in rows], np.int64)
    return BatchPlan(indices, counts, steps, np.maximum(counts, 1).astype(np.float64))
