"""Calibration of the shuffled sums: exact for the scalar P_1D, certified for the vector P_VEC.

A user sends ``levels + bits`` one-bit messages per coordinate; the server learns, per coordinate, an integer sum plus
Bin(clients * bits, bias). Replacing a user moves coordinate j by k_j, |k_j| <= g (g = levels) and, with both roundings
coupled, ||k||_2 <= g + sqrt(d). P_VEC is bounded by a Chernoff bound on the privacy loss truncated at tails of total
mass ``truncation``:

    M(l) = max_k log(sum_y Bin(y) (Bin(y) / Bin(y - k))^l) / k^2,   log-moment of order l <= M(l) (g + sqrt(d))^2,

and log-moments add over coordinates and rounds. The Gaussian proxy is smaller than the truth and is not used.
References: Cheu, Joseph, Mao and Peng 2022, Shuffle Private Stochastic Convex Optimization, arXiv:2106.09805.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from fedopt.privacy.releases import AccountingError
from fedopt.privacy.shuffle import binomial_shift_delta

# Renyi orders minus one: coarse ones (all known to the accountants) for mixed compositions, fine ones for a sum alone.
_ORDERS = np.array([0.5, 1, 2, 3, 5, 7, 10, 15, 22, 31, 44, 62, 127], float)
_FINE = np.geomspace(0.2, 200.0, 160)
_SEARCH_SHIFTS = 24


class SumParameters(NamedTuple):
    """Parameters of one shuffled sum: ``messages_per_client`` = dimension * (levels + bits)."""

    levels: int
    bits: int
    bias: float
    messages_per_client: int


def vector_log_moment(
    trials: int, bias: float, levels: int, dimension: int, order: float, truncation: float, sparse: bool = False
) -> float:
    """Bound on the log-moment of order ``order`` > 0 of the truncated privacy loss of one vector sum.

    Args:
        trials: noise bits of all delivered honest clients per coordinate, N = clients * bits.
        bias: p of a noise bit, in (0, 1/2].
        levels: g.
        dimension: d; 1 uses the exact shift bound g instead of g + sqrt(d).
        order: l > 0; the Renyi order is l + 1.
        truncation: total mass of the cut tails; it adds to delta.
        sparse: look at a few shifts only (for searching; not certified).
    Returns:
        The bound, or inf if the noise range is smaller than the shifts.
    """
    low, high = _range(trials, bias, truncation / (2 * dimension))
    if low - levels < 0 or high + levels > trials:
        return math.inf
    logs = _log_binomial(trials, bias, low - levels, high + levels)
    here = logs[levels : len(logs) - levels]
    shifts = np.arange(1, levels + 1)
    if sparse and levels > _SEARCH_SHIFTS:
        shifts = np.unique(np.geomspace(1, levels, _SEARCH_SHIFTS).astype(int))
    worst = 0.0
    for shift in shifts:
        for moved in (shift, -shift) if bias != 0.5 else (shift,):
            there = logs[levels - moved : len(logs) - levels - moved]
            worst = max(worst, _log_sum_exp((1 + order) * here - order * there) / float(shift) ** 2)
    reach = levels if dimension == 1 else levels + math.sqrt(dimension)
    return worst * reach**2


def _log_sum_exp(values: np.ndarray) -> float:
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))


def _range(trials: int, bias: float, tail: float) -> tuple[int, int]:
    """[low, high] outside of which the noise has at most ``tail`` on either side."""
    law = binom(trials, bias)
    reach = math.sqrt(-2 * math.log(tail) * trials * bias * (1 - bias)) - 2 * math.log(tail)
    grid = np.arange(max(0, math.floor(trials * bias - reach)), min(trials, math.ceil(trials * bias + reach)) + 1)
    below, above = law.cdf(grid - 1), law.sf(grid)
    return int(grid[np.flatnonzero(below <= tail)[-1]]), int(grid[np.argmax(above <= tail)])


@lru_cache(maxsize=8)
def _log_binomial(trials: int, bias: float, low: int, high: int) -> np.ndarray:
    return np.asarray(binom.logpmf(np.arange(low, high + 1), trials, bias))


@lru_cache(maxsize=256)
def vector_renyi(
    trials: int, bias: float, levels: int, dimension: int, truncation: float
) -> tuple[tuple[float, float], ...]:
    """(Renyi order, bound) pairs of one vector sum, valid outside an event of mass ``truncation``."""
    return tuple(
        (order + 1, vector_log_moment(trials, bias, levels, dimension, order, truncation) / order) for order in _ORDERS
    )


@lru_cache(maxsize=256)
def vector_sum_epsilon(
    trials: int, bias: float, levels: int, dimension: int, delta: float, rounds: int = 1, sparse: bool = False
) -> float:
    """Certified epsilon of ``rounds`` vector sums at ``delta`` (a tenth of it pays for the truncation).

    Every order gives a valid bound, so the best one is searched on a few shifts and certified on all of them.

    >>> f"{vector_sum_epsilon(13708, 0.25, 8, 16, 1e-6):.3f}"
    '1.095'
    """
    truncation = delta / 10

    def bound(order: float, quick: bool) -> float:
        moment = vector_log_moment(trials, bias, levels, dimension, order, truncation / rounds, quick)
        return _convert(order + 1, rounds * moment / order, delta - truncation)

    low, high = 0, len(_FINE) - 1  # the bound falls, then rises in the order
    while high - low > 2:
        middle = (low + high) // 2
        if bound(_FINE[middle], True) <= bound(_FINE[middle + 1], True):
            high = middle + 1
        else:
            low = middle
    best = _FINE[(low + high) // 2]
    return max(0.0, bound(best, sparse))


def _convert(order: float, bound: float, delta: float) -> float:
    return bound + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def scalar_sum_parameters(clients: int, levels: int, epsilon: float, delta: float, bias: float = 0.5) -> SumParameters:
    """Fewest noise bits for which P_1D is (epsilon, delta)-DP, by the exact binomial divergence.

    Args:
        clients: honest clients that deliver.
        levels: g; the paper takes at least sqrt(clients).
    """
    _require_target(epsilon, delta)

    def fits(bits: int) -> bool:
        return binomial_shift_delta(epsilon, clients * bits, bias, levels) <= delta

    bits = _smallest(fits, "P_1D")
    return SumParameters(levels, bits, bias, levels + bits)


def vector_sum_parameters(
    clients: int,
    dimension: int,
    epsilon: float,
    delta: float,
    levels: int | None = None,
    bias: float = 0.25,
    rounds: int = 1,
) -> SumParameters:
    """Fewest noise bits (to half a percent) for which ``rounds`` sums P_VEC are certified (epsilon, delta)-DP.

    Args:
        levels: g; default max(2 sqrt(clients), dimension, 4), the published choice. ``dimension`` 1 uses P_1D if
            there is one round.
    """
    _require_target(epsilon, delta)
    chosen = levels or max(math.ceil(2 * math.sqrt(clients)), dimension, 4)
    if dimension == 1 and rounds == 1:
        return scalar_sum_parameters(clients, chosen, epsilon, delta, bias)

    def fits(bits: int, sparse: bool = True) -> bool:
        return vector_sum_epsilon(clients * bits, bias, chosen, dimension, delta, rounds, sparse) <= epsilon

    bits = _smallest(fits, "P_VEC")
    while not fits(bits, sparse=False):
        bits += max(1, bits // 200)
    return SumParameters(chosen, bits, bias, dimension * (chosen + bits))


def _require_target(epsilon: float, delta: float) -> None:
    if not (epsilon > 0 and 0 < delta < 1):
        raise AccountingError(f"need epsilon > 0 and delta in (0, 1), got epsilon {epsilon} and delta {delta}")


def _smallest(fits: Callable[[int], bool], what: str) -> int:
    """Smallest number of bits that fits, by doubling and bisection to one bit or half a percent."""
    high = 1
    while not fits(high):
        high *= 2
        if high > 2**31:
            raise AccountingError(f"{what} cannot reach this epsilon with a sane number of messages; raise epsilon")
    low = high // 2
    while high - low > max(1, high // 2000):
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
