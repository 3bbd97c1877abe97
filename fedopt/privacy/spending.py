"""Epsilon of counted events by one accountant, cheap enough to ask at every server step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from fedopt.components import component
from fedopt.privacy.accountants.base import Accountant
from fedopt.privacy.base import Counted
from fedopt.privacy.events import Repeated, gaussian_mu
from fedopt.privacy.releases import Event, Relation

_FIRST_CURVE = 256  # steps of an epsilon curve when the length of the run is not known
_RATIO = 1.15  # between two checkpoints the epsilon of the next one is an upper bound


def epsilon_of(profile: Counted, relation: Relation, delta: float, accountant: str) -> float:
    """Epsilon of events with their counts; 0 for none.

    Raises:
        AccountingError: no bound exists for some event under this relation.
    """
    kept = tuple((event, count) for event, count in profile if count)
    return _epsilon(kept, relation, delta, accountant) if kept else 0.0


@lru_cache(maxsize=4096)
def _epsilon(profile: Counted, relation: Relation, delta: float, accountant: str) -> float:
    return float(accountant_of(accountant).epsilon([Repeated(event, n) for event, n in profile], delta, relation))


def accountant_of(kind: str) -> Accountant:
    """The accountant of a scenario's ``privacy.accountant``."""
    made = component("fedopt.privacy.accountants", kind)()
    assert isinstance(made, Accountant)
    return made


class Spending:
    """Epsilon of a growing ledger.

    Args:
        relation, delta, accountant: as in the scenario.
        planned: event -> count at which the value is exact whatever the grid; None where that is not known.
    """

    def __init__(self, relation: Relation, delta: float, accountant: str, planned: Callable[[Event], int | None]):
        self.relation, self.delta, self.accountant, self._planned = relation, delta, accountant, planned
        self._affordable: dict[tuple[Event, float], int] = {}
        self._curves: dict[Event, np.ndarray] = {}

    def exact(self, profile: Counted) -> float:
        """Epsilon of exactly these events."""
        return epsilon_of(profile, self.relation, self.delta, self.accountant)

    def bound(self, profile: Counted) -> float:
        """Epsilon of at least these events: counts rounded up to checkpoints where composing is dear.

        Guarantees: never below ``exact``, equal to it at the planned count, and not decreasing in the counts.
        """
        if all(gaussian_mu(event, self.relation) is not None for event, _ in profile):
            return self.exact(profile)
        if len(profile) == 1:
            return self._on_curve(*profile[0])
        return self.exact(tuple((event, self._checkpoint(event, count)) for event, count in profile))

    def _on_curve(self, event: Event, count: int) -> float:
        """From the curve of this event over the planned run; a longer one is made when it is outgrown."""
        curve = self._curves.get(event, np.zeros(0))
        if count >= len(curve):
            planned = self._planned(event)
            length = planned if planned and count <= planned else max(_FIRST_CURVE, 2 * count)
            steps = np.arange(length + 1)
            made = accountant_of(self.accountant).epsilon_curve(event, steps, self.delta, self.relation)
            # A new curve has its checkpoints elsewhere: what was shown before stays a lower limit of what is shown.
            made[len(curve) :] = np.maximum(made[len(curve) :], curve[-1] if len(curve) else 0.0)
            made[: len(curve)] = curve
            self._curves[event] = curve = made
        return float(curve[count])

    def _checkpoint(self, event: Event, count: int) -> int:
        found, planned = count, self._planned(event)
        if count > 8:
            power = math.ceil(math.log(count / 8) / math.log(_RATIO) - 1e-9)
            found = max(count, math.ceil(8 * _RATIO**power))
        return min(found, planned) if planned is not None and count <= planned else found

    def affords(self, profile: Counted, limit: float) -> bool:
        """Whether epsilon stays at or below ``limit``; exact, by bisection once per kind of event."""
        if self.bound(profile) <= limit:
            return True
        if len(profile) != 1:
            return self.exact(profile) <= limit
        event, count = profile[0]
        key = (event, limit)
        if key not in self._affordable:
            self._affordable[key] = largest_count(
                lambda n: self.exact(((event, n),)) <= limit, self._checkpoint(event, count)
            )
        return count <= self._affordable[key]


def largest_count(fits: Callable[[int], bool], above: int) -> int:
    """Largest n >= 0 with ``fits(n)``, for a property that holds up to some n below ``above`` and never after.

    >>> largest_count(lambda n: n * n <= 50, 100)
    7
    """
    low, high = 0, above
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
