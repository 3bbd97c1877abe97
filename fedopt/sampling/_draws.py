"""Uniform draws of ready clients, cheap also when a few are drawn from a million."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from fedopt.sampling.base import Ready

_SCAN_BELOW = 4096  # populations up to this size are listed; larger ones are sampled by rejection
_REJECTIONS = 64  # batches of tries before a large population is listed after all


def selected(cohort_size: int, over_selection: float) -> int:
    """Clients to start so that ``cohort_size`` replies are likely: ``ceil(over_selection * cohort_size)``, exactly.

    >>> selected(10, 1.1)
    11
    """
    return math.ceil(Fraction(str(over_selection)) * cohort_size)


def ready_clients(ready: Ready) -> np.ndarray:
    """All ready clients, ascending int64."""
    everyone = np.arange(ready.num_clients, dtype=np.int64)
    return everyone[ready.is_ready(everyone)]


def draw_ready(count: int, ready: Ready, rng: np.random.Generator) -> list[int]:
    """``count`` distinct ready clients, uniformly without replacement, ascending; all of them if there are fewer.

    Large populations are sampled by rejection, so the cost depends on ``count`` and on the share of ready clients, not
    on the population.
    """
    if ready.num_clients > _SCAN_BELOW and 4 * count <= ready.num_clients:
        found = _draw_by_rejection(count, ready, rng)
        if found is not None:
            return found
    pool = ready_clients(ready)
    if len(pool) <= count:
        return pool.tolist()
    return sorted(rng.choice(pool, size=count, replace=False, shuffle=False).tolist())


def _draw_by_rejection(count: int, ready: Ready, rng: np.random.Generator) -> list[int] | None:
    taken: dict[int, None] = {}
    for _ in range(_REJECTIONS):
        tries = rng.integers(ready.num_clients, size=2 * (count - len(taken)) + 8)
        taken.update(dict.fromkeys(tries[ready.is_ready(tries)].tolist()))
        if len(taken) >= count:
            return sorted(list(taken)[:count])
    return None


def draw_one(ready: Ready, rng: np.random.Generator) -> int | None:
    """One ready client, uniformly; None if nobody is ready."""
    found = draw_ready(1, ready, rng)
    return found[0] if found else None
