"""From a target epsilon to the noise, by the same accountant that stops the run and reports epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from fedopt.privacy.accountants.base import Accountant, Events
from fedopt.privacy.events import AccountingError, Relation, flatten, gaussian_mu
from fedopt.privacy.gaussian_dp import gaussian_mu_of

_NO_NOISE = 1e-5  # a multiplier below this is none


class Calibration(NamedTuple):
    """Result of a calibration: what to set, what it gives, and by which accountant."""

    noise_multiplier: float
    epsilon: float
    accountant: str


def calibrate(
    events_at: Callable[[float], Events],
    target_epsilon: float,
    delta: float,
    relation: Relation,
    accountant: Accountant,
    tolerance: float = 1e-3,
) -> Calibration:
    """Smallest noise multiplier whose events stay at or below ``target_epsilon``.

    Args:
        events_at: events of the planned run at a noise multiplier > 0; more noise never costs more.
        target_epsilon: > 0.
        delta: in [1e-12, 1).
        relation: as in the ledger.
        accountant: the one that will stop the run. Calibrating by another one would end the run early (PLD noise
            stopped by RDP ends after two thirds) or overspend.
        tolerance: epsilon of the result lies in [target (1 - tolerance), target].
    Raises:
        AccountingError: the target is not positive, or no noise reaches it.
    """
    if not target_epsilon > 0:
        raise AccountingError(f"target_epsilon must be > 0, got {target_epsilon}")
    start = _gaussian_guess(events_at, target_epsilon, delta, relation)

    def search(judge: Accountant, level: float) -> tuple[float, float]:
        return smallest_noise(lambda z: judge.epsilon(events_at(z), delta, relation), target_epsilon, tolerance, level)

    with suppress(AccountingError):  # a rough answer is a good place to start from, and none is no harm
        start = max(search(accountant.draft(), start)[0], _NO_NOISE)
    multiplier, epsilon = search(accountant, start)
    if multiplier < _NO_NOISE and flatten(events_at(1.0)):
        raise AccountingError(
            f"delta = {delta:g} is so large that even no noise satisfies it (it is above the chance that a unit takes "
            "part at all), so there is nothing to calibrate; use a smaller delta"
        )
    return Calibration(multiplier, epsilon, accountant.kind())


def smallest_noise(
    epsilon_at: Callable[[float], float], target: float, tolerance: float = 1e-3, start: float = 1.0
) -> tuple[float, float]:
    """Smallest level > 0 with ``epsilon_at(level) <= target``, by secant steps inside a bracket in logarithms.

    Args:
        epsilon_at: non-increasing in the level; may be inf.
        target: > 0.
        tolerance: stop when epsilon lies in [target (1 - tolerance), target] or the bracket is that narrow.
        start: first level tried.
    Returns:
        (level, epsilon at that level), with epsilon <= target.

    >>> level, epsilon = smallest_noise(lambda z: 3.0 / z, 2.0)
    >>> round(level, 2), 1.998 <= epsilon <= 2.0
    (1.5, True)
    """
    low, high = math.nan, math.nan  # epsilon(low) > target >= epsilon(high)
    below, above, level = math.nan, math.nan, start
    goal = math.log(target * (1 - tolerance / 2))
    for _ in range(200):
        epsilon = epsilon_at(level)
        if epsilon <= target:
            high, above = level, epsilon
            if epsilon >= target * (1 - tolerance):
                return level, epsilon
        else:
            low, below = level, epsilon
        if math.isnan(high):
            level *= 2.0 if not math.isfinite(epsilon) else min(max(1.2 * epsilon / target, 1.05), 8.0)
        elif math.isnan(low):
            level /= min(max(1.2 * target / max(epsilon, 1e-12), 1.05), 8.0)
        elif high / low < 1 + tolerance / 10:
            return high, above
        else:
            level = _between(low, high, below, above, goal)
        if not 1e-9 < level < 1e9:
            if level <= 1e-9:
                return high, above
            raise AccountingError(f"no noise reaches epsilon {target:g}; raise the target or run fewer steps")
    return high, above


def _between(low: float, high: float, below: float, above: float, goal: float) -> float:
    """Where the line through both ends (in logarithms) meets the goal, kept off the ends."""
    share = 0.5
    if math.isfinite(below) and above > 0:
        share = (math.log(below) - goal) / (math.log(below) - math.log(above))
    return float(low * (high / low) ** min(max(share, 0.08), 0.92))


def _gaussian_guess(events_at: Callable[[float], Events], target: float, delta: float, relation: Relation) -> float:
    """The exact multiplier if all releases are unsampled Gaussians, else 1."""
    mus = [(gaussian_mu(leaf, relation), count) for leaf, count in flatten(events_at(1.0))]
    if not mus or any(mu is None for mu, _ in mus):
        return 1.0
    return math.sqrt(sum(count * (mu or 0.0) ** 2 for mu, count in mus)) / gaussian_mu_of(target, delta) * (1 + 1e-9)
