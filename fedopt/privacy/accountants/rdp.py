"""Renyi differential privacy: fast and a little looser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedopt.privacy.accountants._renyi import (
    ORDERS,
    epsilon_of_renyi,
    renyi,
    renyi_delta,
    renyi_epsilon,
    reserve,
)
from fedopt.privacy.accountants.base import Accountant, Events, counts_at, prepared, schedule
from fedopt.privacy.events import Relation


class Rdp(Accountant):
    """Renyi divergences added up and converted: valid, cheap, 5 to 25 % larger than ``pld``.

    The replace-one sensitivity 2C is applied before any formula sees a multiplier. Poisson sampling under replace-one
    has no Renyi bound here and is refused.

    References: Mironov 2017, arXiv:1702.07476; Mironov, Talwar and Zhang 2019, arXiv:1908.10530; Canonne, Kamath and
    Steinke 2020, arXiv:2004.00010, Proposition 12.
    """

    def epsilon(self, events: Events, delta: float, relation: Relation) -> float:
        """See ``Accountant.epsilon``."""
        leaves = prepared(events, delta, relation)
        return math.inf if leaves is None else renyi_epsilon(leaves, delta, relation)

    def delta(self, events: Events, epsilon: np.ndarray, relation: Relation) -> np.ndarray:
        """See ``Accountant.delta``."""
        leaves = prepared(events, None, relation)
        if leaves is None:
            return np.ones(len(np.atleast_1d(epsilon)))
        return renyi_delta(leaves, np.atleast_1d(epsilon), relation)

    def epsilon_curve(
        self, events: Events, steps: Sequence[int] | np.ndarray, delta: float, relation: Relation
    ) -> np.ndarray:
        """See ``Accountant.epsilon_curve``; every step is exact, except where a vector sum cuts its tails once."""
        wanted = np.asarray(steps, np.int64)
        if not len(wanted):
            return np.zeros(0)
        leaves, per_step, ends = schedule(events, int(wanted[-1]))
        counts = counts_at(per_step, ends, wanted)
        if prepared(leaves, delta, relation) is None:
            return np.where(wanted > 0, math.inf, 0.0)
        last = [(leaf, int(n)) for leaf, n in zip(leaves, counts[-1], strict=True)]
        truncation, left = reserve(last, delta)
        one = np.stack([renyi(leaf, relation, truncation) for leaf in leaves])
        usable = np.isfinite(one).all(axis=0)
        bounds = np.full((len(wanted), len(ORDERS)), math.inf)
        bounds[:, usable] = counts @ one[:, usable]
        curve = np.array([epsilon_of_renyi(row, left, delta - left) for row in bounds])
        return np.where(wanted > 0, np.minimum.accumulate(curve[::-1])[::-1], 0.0)
