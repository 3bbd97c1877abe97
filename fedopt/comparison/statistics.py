"""Means with intervals, paired tests, frontiers and costs to a target. Plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over ``number`` seeds; without at least two values the spread and both ends are nan."""

    mean: float
    deviation: float
    low: float
    high: float
    number: int


def t_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Mean with Student's interval: mean +- t_{n-1} s / sqrt(n). Values that are not finite are left out.

    >>> [round(float(x), 3) for x in t_interval([1.0, 2.0, 3.0])]
    [2.0, 1.0, -0.484, 4.484, 3.0]
    """
    kept = _finite(values)
    n = len(kept)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan, 0)
    mean = float(kept.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, math.nan, 1)
    deviation = float(kept.std(ddof=1))
    half = t_factor(n, confidence) * deviation / math.sqrt(n)
    return Interval(mean, deviation, mean - half, mean + half, n)


@cache
def t_factor(count: int, confidence: float) -> float:
    """Half width of Student's interval of a mean of ``count`` >= 2 values, in standard errors."""
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, count - 1))


class PairedTest(NamedTuple):
    """Paired t test over shared seeds. ``difference`` is first minus second; nan without two pairs."""

    difference: float
    low: float
    high: float
    p_value: float
    pairs: int


def paired_test(first: Mapping[Any, float], second: Mapping[Any, float], confidence: float = 0.95) -> PairedTest:
    """Difference of two methods on the seeds both have, two-sided.

    Args:
        first, second: seed -> value; pairs with a value that is not finite are left out.
        confidence: of the interval of the mean difference.
    Returns:
        If every difference is the same: p is 1 for no difference, else 0.
    """
    from scipy import stats

    shared = [seed for seed in first if seed in second]
    interval = t_interval([first[seed] - second[seed] for seed in shared], confidence)
    if interval.number < 2:
        return PairedTest(interval.mean, math.nan, math.nan, math.nan, interval.number)
    error = interval.deviation / math.sqrt(interval.number)
    if error == 0:
        p = 1.0 if interval.mean == 0 else 0.0
    else:
        p = float(2 * stats.t.sf(abs(interval.mean) / error, interval.number - 1))
    return PairedTest(interval.mean, interval.low, interval.high, p, interval.number)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: rejecting where the result is <= alpha keeps the family-wise error below alpha.

    p_(k) becomes max over j <= k of min(1, (m - j + 1) p_(j)). Entries that are nan stay nan and do not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    References: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    adjusted = [math.nan] * len(p_values)
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    largest = 0.0
    for rank, index in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(known) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def pareto(points: np.ndarray) -> np.ndarray:
    """Which points no other point beats: at least as good everywhere and better somewhere.

    Args:
        points: ``[n, criteria]``, smaller is better; inf is allowed, nan makes a point no candidate.
    Returns:
        Booleans ``[n]``. Equal points are kept together.

    >>> pareto(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0]])).tolist()
    [True, True, False]
    """
    valid = ~np.isnan(points).any(axis=1)
    kept = valid.copy()
    for i in np.flatnonzero(valid):
        others = points[valid]
        beaten = (others <= points[i]).all(axis=1) & (others < points[i]).any(axis=1)
        kept[i] = not beaten.any()
    return kept


def worst_decile(values: Sequence[float] | np.ndarray, goal: str) -> float:
    """Mean of the worst tenth (rounded up) of the clients' metrics; nan without any.

    >>> worst_decile([0.1, 0.5, 0.9], "max"), worst_decile([0.1, 0.5, 0.9], "min")
    (0.1, 0.9)
    """
    kept = np.sort(_finite(values))
    if len(kept) == 0:
        return math.nan
    count = -(-len(kept) // 10)
    return float((kept[:count] if goal == "max" else kept[-count:]).mean())


def first_reaching(metric: Sequence[float | None], target: float, goal: str) -> int | None:
    """Position of the first value that reaches the target, or None.

    >>> first_reaching([None, 0.4, 0.6, 0.5], 0.5, "max")
    2
    """
    for i, value in enumerate(metric):
        if value is not None and math.isfinite(value) and (value >= target if goal == "max" else value <= target):
            return i
    return None


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.array([math.nan if v is None else v for v in values], dtype=float)
    return array[np.isfinite(array)]
