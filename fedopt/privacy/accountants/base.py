"""Accountants: from events to epsilon, for one relation and one delta."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from fedopt.components import Settings
from fedopt.privacy.events import AccountingError, Event, NonPrivateEvent, Relation, flatten, require_relation

Events = Event | Iterable[Event]


class Accountant(Settings):
    """Base of accountants: one of them calibrates the noise, stops the run and writes the epsilon column."""

    @abstractmethod
    def epsilon(self, events: Events, delta: float, relation: Relation) -> float:
        """Upper bound of epsilon of the adaptive composition of all events at ``delta``.

        Args:
            events: one event or several, each one participation of the unit (see ``fedopt.privacy.events``).
            delta: in [1e-12, 1).
            relation: ``add_or_remove_one``, ``zero_out_one`` or ``replace_one``.
        Returns:
            epsilon >= 0; inf if something non-private was released.
        Raises:
            AccountingError: some event has no bound under this relation; says why and what to use.
        """

    def draft(self) -> Accountant:
        """A cheaper accountant whose values are a little larger, to search with; itself where there is none."""
        return self

    @abstractmethod
    def delta(self, events: Events, epsilon: np.ndarray, relation: Relation) -> np.ndarray:
        """Upper bound of delta at every ``epsilon`` (shape (n,), >= 0), the larger of both directions."""

    @abstractmethod
    def epsilon_curve(
        self, events: Events, steps: Sequence[int] | np.ndarray, delta: float, relation: Relation
    ) -> np.ndarray:
        """Upper bounds of epsilon after every number of steps in ``steps``, non-decreasing.

        Args:
            events: one event, released at every step; or the releases in order, where a ``Repeated`` stands for
                ``count`` steps.
            steps: non-decreasing numbers of steps, shape (n,); 0 gives 0.
        Returns:
            Shape (n,). The last value equals ``epsilon`` of the same events; values before it may be upper bounds
            from a slightly later step.
        """


def prepared(events: Events, delta: float | None, relation: Relation) -> list[tuple[Event, int]] | None:
    """Leaves with counts after all checks, or None if a non-private release makes epsilon infinite."""
    if delta is not None and not 1e-12 <= delta < 1:
        raise AccountingError(f"delta must be in [1e-12, 1), got {delta}")
    leaves = flatten(events)
    require_relation([leaf for leaf, _ in leaves], relation)
    return None if any(isinstance(leaf, NonPrivateEvent) for leaf, _ in leaves) else leaves


def schedule(events: Events, last: int) -> tuple[list[Event], np.ndarray, np.ndarray]:
    """Distinct leaves, the end step of every run of equal steps, and cumulated counts per run and leaf.

    A single event that is not ``Repeated`` or ``Composed`` is released at every step up to ``last``.
    """
    from fedopt.privacy.events import Composed, Repeated

    if isinstance(events, Event):
        runs: list[tuple[Event, int]] = [(events, last)]
        if isinstance(events, Repeated):
            runs = [(events.event, events.count)]
    else:
        runs = [(e.event, e.count) if isinstance(e, Repeated) else (e, 1) for e in events]
    parts = [(flatten(e) if isinstance(e, (Composed, Repeated)) else [(e, 1)], count) for e, count in runs]
    leaves = list(dict.fromkeys(leaf for pairs, _ in parts for leaf, _ in pairs))
    per_step = np.zeros((len(parts), len(leaves)), np.int64)
    for row, (pairs, _) in enumerate(parts):
        for leaf, count in pairs:
            per_step[row, leaves.index(leaf)] += count
    lengths = np.array([count for _, count in parts], np.int64)
    return leaves, per_step, np.concatenate([[0], np.cumsum(lengths)])


def counts_at(per_step: np.ndarray, ends: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How often every leaf was released after each number of steps: shape (len(steps), leaves)."""
    inside = np.clip(steps[:, None] - ends[:-1][None, :], 0, np.diff(ends)[None, :])
    return np.asarray(inside @ per_step)
