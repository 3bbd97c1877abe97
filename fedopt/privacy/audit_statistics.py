"""Statistics of privacy audits: certified lower bounds of epsilon, and one estimate that is not a bound.

``certified`` are the Clopper-Pearson bounds over repeats and the two one-run bounds: the true epsilon is at least that
with probability 1 - alpha. The one-shot estimate of Andrew et al. may exceed the truth and is never called a bound.
Sources: Jagielski et al. 2020, arXiv:2006.07709; Nasr et al. 2023, arXiv:2302.07956; Steinke et al. 2023,
arXiv:2305.08846; Mahloujifar et al. 2024, arXiv:2410.22235; Andrew et al. 2023, arXiv:2302.03098.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, log_ndtr, ndtr, ndtri
from scipy.stats import binom

from fedopt.privacy.gaussian_dp import gaussian_epsilon, gaussian_mu_of


def proportion_upper(count: int, trials: int, alpha: float, jeffreys: bool = False) -> float:
    """Clopper-Pearson upper bound of a probability at level ``alpha`` (Jeffreys: approximate coverage).

    >>> round(proportion_upper(0, 1000, 0.025), 6)
    0.003682
    """
    if not 0 <= count <= trials:
        raise ValueError(f"need 0 <= count <= trials, got {count} of {trials}")
    if count == trials:
        return 1.0
    half = 0.5 if jeffreys else 1.0
    return float(betaincinv(count + half, trials - count + 1 - half, 1 - alpha))


class ErrorRates(NamedTuple):
    """Upper bounds that hold together with probability 1 - alpha."""

    false_negative: float
    false_positive: float


def error_rates(
    missed: int, present: int, false_alarms: int, absent: int, alpha: float, thresholds: int = 1
) -> ErrorRates:
    """Bounds on both error rates of an attack.

    Args:
        missed: canaries that were present and not detected, of ``present``.
        false_alarms: canaries that were absent and detected, of ``absent``.
        alpha: failure probability of the audit.
        thresholds: candidates the threshold was chosen from, fixed before looking (Bonferroni).
    """
    level = alpha / 2 / thresholds
    return ErrorRates(proportion_upper(missed, present, level), proportion_upper(false_alarms, absent, level))


def repeats_epsilon(
    missed: int,
    present: int,
    false_alarms: int,
    absent: int,
    alpha: float,
    delta: float,
    thresholds: int = 1,
    one_sided: bool = False,
) -> float:
    """Certified lower bound of epsilon over independent repeats; ``one_sided`` uses detections only.

    >>> round(repeats_epsilon(200, 1000, 50, 1000, 0.05, 1e-5), 3)
    2.471
    """
    rates = error_rates(missed, present, false_alarms, absent, alpha, thresholds)
    terms = [(1 - rates.false_negative - delta, rates.false_positive)]
    if not one_sided:
        terms.append((1 - rates.false_positive - delta, rates.false_negative))
    return max([0.0] + [math.log(top / bottom) for top, bottom in terms if top > 0])


def repeats_gaussian_epsilon(
    missed: int, present: int, false_alarms: int, absent: int, alpha: float, delta: float
) -> float:
    """Lower bound of epsilon for a mechanism that *is* Gaussian DP (an assumption to be stated)."""
    rates = error_rates(missed, present, false_alarms, absent, alpha)
    mu = float(ndtri(1 - rates.false_positive) - ndtri(rates.false_negative))
    return gaussian_epsilon(mu, delta) if mu > 0 else 0.0


def one_run_p_value(epsilon: float, canaries: int, guesses: int, correct: int, delta: float) -> float:
    """Largest probability of at least ``correct`` right guesses under (epsilon, delta)-DP (Steinke et al. 2023)."""
    rate = 1 / (1 + math.exp(-epsilon))
    base = float(binom.sf(correct - 1, guesses, rate))
    if delta == 0 or correct == 0:
        return min(1.0, base)
    steps = np.arange(1, correct + 1)
    slope = max(0.0, float(np.max((binom.sf(correct - steps - 1, guesses, rate) - base) / steps)))
    return min(1.0, base + 2 * canaries * delta * slope)


def one_run_epsilon(canaries: int, guesses: int, correct: int, alpha: float, delta: float) -> float:
    """Certified lower bound of epsilon from one run.

    Args:
        canaries: m, each included by its own fair coin, known to nobody else.
        guesses: k+ highest scores called in, k- lowest called out, the rest abstained; fixed in advance.
        correct: right guesses.
        alpha: failure probability of the audit.

    >>> round(one_run_epsilon(1000, 100, 90, 0.05, 1e-5), 4)
    1.6261
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"need correct <= guesses <= canaries, got {correct}, {guesses}, {canaries}")
    return _largest(lambda epsilon: one_run_p_value(epsilon, canaries, guesses, correct, delta) <= alpha)


def one_run_rejects(noise_multiplier: float, canaries: int, guesses: int, correct: int, alpha: float) -> bool:
    """Whether Gaussian DP with this multiplier is refuted by one run (Mahloujifar et al. 2024, reference form)."""
    if guesses == 0 or correct == 0:
        return False

    def curve(x: float) -> float:
        return float(ndtr(ndtri(x) - 1 / noise_multiplier))

    right, wrong = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        raised = max(wrong, curve(right))
        if raised == wrong:
            break
        right = min(1.0, right + i / (guesses - i) * (raised - wrong))
        wrong = raised
    return right + wrong > guesses / canaries


def one_run_gaussian_epsilon(canaries: int, guesses: int, correct: int, alpha: float, delta: float) -> float:
    """Certified lower bound of epsilon from one run, for the Gaussian trade-off curve (f-DP).

    Valid for the curve tested, not for arbitrary mechanisms; usually tighter than ``one_run_epsilon``.
    """
    return _largest(
        lambda epsilon: (
            epsilon > 0 and one_run_rejects(1 / gaussian_mu_of(epsilon, delta), canaries, guesses, correct, alpha)
        )
    )


def _largest(refuted: Callable[[float], bool]) -> float:
    """Supremum of refuted epsilons, bracketed by doubling, from below; 0 if none is."""
    low, high = 0.0, 0.25
    if not refuted(1e-6):
        return 0.0
    while refuted(high):
        low, high = high, 2 * high
        if high > 1024:
            return low
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


class OneShot(NamedTuple):
    """An estimate, never a bound: ``mean`` and ``std`` of the canaries' statistic, and epsilon."""

    mean: float
    std: float
    epsilon: float


def one_shot_estimate(
    cosines: np.ndarray, delta: float, dimension: int | None = None, unseen: np.ndarray | None = None
) -> OneShot:
    """Andrew et al. 2023: epsilon from the cosines between canaries and what was released.

    Args:
        cosines: of canaries that took part, shape (k,): with the final update, or the maximum over iterates.
        delta: the accountant's delta.
        dimension: d >= 1000 of the final-model attack, whose null is N(0, 1/d).
        unseen: for the all-iterates attack, the same statistic of canaries that did not take part.
    """
    if (dimension is None) == (unseen is None):
        raise ValueError("give dimension (final model) or unseen (all iterates), not both")
    if dimension is not None and dimension < 1000:
        raise ValueError(f"the normal null needs dimension >= 1000, got {dimension}; use unseen canaries")
    mean, std = float(np.mean(cosines)), float(np.std(cosines, ddof=1))
    if unseen is not None:
        null = float(np.mean(unseen)), float(np.std(unseen, ddof=1))
    else:
        assert dimension is not None
        null = 0.0, 1 / math.sqrt(dimension)
    return OneShot(mean, std, two_gaussians_epsilon(null, (mean, std), delta))


def two_gaussians_epsilon(first: tuple[float, float], second: tuple[float, float], delta: float) -> float:
    """epsilon between two normals (mean, std) at ``delta``, the larger of both orders.

    >>> round(two_gaussians_epsilon((0.0, 0.01), (0.01, 0.01), 1e-5), 4)
    4.3772
    """

    def largest_delta(epsilon: float) -> float:
        return max(_hockey_stick(first, second, epsilon), _hockey_stick(second, first, epsilon))

    if largest_delta(0.0) <= delta:
        return 0.0
    return _largest(lambda epsilon: largest_delta(epsilon) > delta)


def _hockey_stick(first: tuple[float, float], second: tuple[float, float], epsilon: float) -> float:
    """Pr_1[L > epsilon] - exp(epsilon) Pr_2[L > epsilon] for the quadratic loss L = a y^2 + b y + c."""
    (m1, s1), (m2, s2) = first, second
    a = (s2**-2 - s1**-2) / 2
    b = m1 / s1**2 - m2 / s2**2
    c = ((m2 / s2) ** 2 - (m1 / s1) ** 2) / 2 + math.log(s2 / s1) - epsilon
    if abs(a) * s1 * s2 < 1e-12:
        if b == 0:
            return max(0.0, 1 - math.exp(epsilon)) if c > 0 else 0.0
        edge = -c / b
        return _normal_gap(first, second, epsilon, [(edge, math.inf)] if b > 0 else [(-math.inf, edge)])
    discriminant = b * b - 4 * a * c
    if discriminant <= 0:
        return max(0.0, -math.expm1(epsilon)) if a > 0 else 0.0
    roots = sorted([(-b - math.sqrt(discriminant)) / (2 * a), (-b + math.sqrt(discriminant)) / (2 * a)])
    sets = [(-math.inf, roots[0]), (roots[1], math.inf)] if a > 0 else [(roots[0], roots[1])]
    return _normal_gap(first, second, epsilon, sets)


def _normal_gap(
    first: tuple[float, float], second: tuple[float, float], epsilon: float, sets: list[tuple[float, float]]
) -> float:
    gap = 0.0
    for low, high in sets:
        own, other = (_log_normal_mass((low - m) / s, (high - m) / s) for m, s in (first, second))
        gap += math.exp(own) - math.exp(min(epsilon + other, 700.0))
    return max(0.0, gap)


def _log_normal_mass(low: float, high: float) -> float:
    """log(Phi(high) - Phi(low)), accurate in either tail."""
    if low > 0:
        low, high = -high, -low
    top, bottom = float(log_ndtr(high)), float(log_ndtr(low))
    return top + math.log1p(-math.exp(bottom - top)) if top > bottom else -math.inf
