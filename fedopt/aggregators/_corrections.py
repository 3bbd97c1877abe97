"""Corrections of speed bias: weights that make every client count by its importance, however often it arrives.

A client that contributes in a fraction f_i of the server steps must weigh ``p_i / f_i`` (FedFix card, sections 3 and
4). ``p_i`` is ``raw_importance / total_importance``; the functions here return the factor ``1 / f_i``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from fedopt.types import Public, ReplyMeta


def exact(value: Any) -> Fraction:
    """A number as the fraction its decimal notation says: 0.2 is 1/5, not the nearest double.

    >>> exact(0.2), exact(Fraction(1, 3))
    (Fraction(1, 5), Fraction(1, 3))
    """
    return Fraction(str(value)) if isinstance(value, float) else Fraction(value)


def is_exact(durations: Sequence[Any] | None) -> bool:
    """Whether durations are fixed and known exactly (Fractions or ints), not means of random ones."""
    return durations is not None and all(isinstance(t, Fraction | int) for t in durations)


def period_lengths(public: Public, step_seconds: Fraction) -> tuple[float, ...] | None:
    """``E[ceil(T_i / step_seconds)]`` of every client: in how many ticks it contributes once. None if unknown."""
    if is_exact(public.seconds_per_task):
        return tuple(float(max(1, math.ceil(Fraction(t) / step_seconds))) for t in public.seconds_per_task)
    if public.expected_ceil is None:
        return None
    return tuple(float(n) for n in public.expected_ceil(step_seconds))


def upload_rate(public: Public) -> float:
    """``sum_j 1 / E[T_j]``: uploads per virtual second when every client always works."""
    return math.fsum(1.0 / float(t) for t in public.seconds_per_task)


def gap_factor(meta: ReplyMeta) -> float:
    """Server steps since the client's previous contribution; telescopes, so it is exact for any schedule.

    A reply that failed is no contribution: the next one that is used makes up for its steps.
    """
    return float(meta.gap)


def frequency_factor(meta: ReplyMeta) -> float:
    """Inverse of the fraction of server steps this client contributed to so far, this one included."""
    return (meta.version + meta.staleness + 1) / (meta.contributions + 1)


def capped(factor: float, largest: float | None) -> float:
    """A factor bounded by a public constant, or as it is."""
    return factor if largest is None else min(factor, largest)


def missing_clients(public: Public, method: str, weights: str) -> tuple[str, ...]:
    """Refusal when weights assume that everybody always works but the stream holds fewer."""
    if public.concurrency is None or public.concurrency >= public.num_clients:
        return ()
    return (
        f"weights: {weights} of {method} assume that all clients work all the time, but only {public.concurrency} of "
        f"{public.num_clients} are in flight; use sampling: all, or weights: gap",
    )


def uncapped(public: Public, weights: str, largest: float | None) -> tuple[str, ...]:
    """Refusal of schedule-dependent weights without a bound under privacy."""
    if not public.is_private or largest is not None:
        return ()
    return (f"weights: {weights} have no upper bound; set max_correction, or use weights: identical under privacy",)
