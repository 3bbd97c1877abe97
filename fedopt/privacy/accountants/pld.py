"""Privacy-loss distributions: tight upper bounds, the default accountant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from pydantic import Field

from fedopt.privacy.accountants._pairs import pairs_of
from fedopt.privacy.accountants._pmf import Composer, CurvePair, LossPmf, delta_of, epsilon_of, symmetric, variance
from fedopt.privacy.accountants._renyi import renyi_delta, renyi_epsilon, renyi_sum
from fedopt.privacy.accountants.base import Accountant, Events, counts_at, prepared, schedule
from fedopt.privacy.events import AccountingError, Event, Relation, ShuffledSumEvent, gaussian_mu
from fedopt.privacy.gaussian_dp import gaussian_delta, gaussian_epsilon, gaussian_epsilons
from fedopt.privacy.shuffle_sum import vector_sum_epsilon

Counts = list[tuple[Event, int]]


class Pld(Accountant):
    """Privacy-loss distributions on a grid, composed by FFT powers: tight upper bounds (default).

    Gaussian releases without sampling are summed exactly (mu-GDP). Sampled Gaussian, Laplace, pure, shuffled and
    truncated releases are discretised by connecting the dots, the construction of the dp-accounting library, against
    which the tests hold it. Skellam, discrete Gaussian and vector-sum releases are known by Renyi bounds only, which
    are then used for them.

    Guarantees: an upper bound; equal events in any order or grouping give the same value; non-decreasing in steps.
    References: Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380; Dong, Roth and Su
    2022, arXiv:1905.02383.
    """

    grid: float = Field(1e-4, gt=0, le=0.1, description="finest spacing of privacy losses; coarser where they are wide")
    points: int = Field(2**19, ge=2**10, description="most grid points of a composed distribution")

    def draft(self) -> Pld:
        """The same on a coarser grid."""
        return self.model_copy(update={"points": min(self.points, 2**13)})

    def epsilon(self, events: Events, delta: float, relation: Relation) -> float:
        """See ``Accountant.epsilon``."""
        leaves = prepared(events, delta, relation)
        return math.inf if leaves is None else self._epsilon(leaves, delta, relation)

    def delta(self, events: Events, epsilon: np.ndarray, relation: Relation) -> np.ndarray:
        """See ``Accountant.delta``."""
        epsilon = np.atleast_1d(np.asarray(epsilon, float))
        leaves = prepared(events, None, relation)
        if leaves is None:
            return np.ones(len(epsilon))
        mu, paired, renyi_only = _split(leaves, relation)
        if _give_away(paired, relation):
            return np.ones(len(epsilon))
        if renyi_only:
            return renyi_delta(leaves, epsilon, relation)
        if not paired:
            return gaussian_delta(epsilon, mu)
        composed = self._compositions(mu, paired, relation, self.points)
        return np.max([delta_of(pmf, epsilon) for pmf in composed], axis=0)

    def epsilon_curve(
        self, events: Events, steps: Sequence[int] | np.ndarray, delta: float, relation: Relation
    ) -> np.ndarray:
        """See ``Accountant.epsilon_curve``."""
        wanted = np.asarray(steps, np.int64)
        if not len(wanted):
            return np.zeros(0)
        leaves, per_step, ends = schedule(events, int(wanted[-1]))
        counts = counts_at(per_step, ends, wanted)
        last = [(leaf, int(n)) for leaf, n in zip(leaves, counts[-1], strict=True) if n]
        if prepared((leaf for leaf, _ in last), delta, relation) is None:
            return np.where(wanted > 0, math.inf, 0.0)
        _, paired, renyi_only = _split(last, relation)
        if _give_away(paired, relation):
            rows = [[(leaf, int(n)) for leaf, n in zip(leaves, row, strict=True) if n] for row in counts]
            lost = np.array([_give_away(_split(row, relation)[1], relation) for row in rows])
            before = self.epsilon_curve(events, wanted[~lost], delta, relation)
            return np.concatenate([before, np.full(int(lost.sum()), math.inf)])
        if not paired and not renyi_only:
            squares = np.array([(gaussian_mu(leaf, relation) or 0.0) ** 2 for leaf in leaves])
            curve = gaussian_epsilons(np.sqrt(counts @ squares), delta)
        else:
            chosen = _checkpoints(wanted, 30 if renyi_only else 160)
            curve = np.full(len(wanted), math.inf)
            if renyi_only:
                rows = [[(leaf, int(n)) for leaf, n in zip(leaves, counts[i], strict=True) if n] for i in chosen]
                curve[chosen] = [self._epsilon(row, delta, relation) for row in rows]
            else:
                curve[chosen] = self._epsilons(leaves, counts[chosen], delta, relation)
        curve[-1] = self._epsilon(last, delta, relation)
        curve = np.minimum.accumulate(curve[::-1])[::-1]
        return np.where(wanted > 0, curve, 0.0)

    def _epsilon(self, leaves: Counts, delta: float, relation: Relation) -> float:
        mu, paired, renyi_only = _split(leaves, relation)
        if not renyi_only:
            return self._paired_epsilon(mu, paired, delta, relation)
        event, count = leaves[0]
        if len(leaves) == 1 and isinstance(event, ShuffledSumEvent):
            trials = event.clients * event.bits
            return vector_sum_epsilon(trials, event.bias, event.levels, event.dimension, delta, count)
        everything = [] if paired and not _all_renyi(leaves, relation) else leaves
        bounds = [renyi_epsilon(everything, delta, relation)] if everything else []
        if len(renyi_only) < len(leaves):  # basic composition of the two kinds
            for share in (0.1, 0.5, 0.9):
                exact = self._paired_epsilon(mu, paired, share * delta, relation)
                bounds.append(exact + renyi_epsilon(renyi_only, (1 - share) * delta, relation))
        return min(bounds)

    def _paired_epsilon(self, mu: float, paired: Counts, delta: float, relation: Relation) -> float:
        if not paired:
            return gaussian_epsilon(mu, delta)
        if _give_away(paired, relation):
            return math.inf
        return max(epsilon_of(pmf, delta) for pmf in self._compositions(mu, paired, relation, self.points))

    def _compositions(self, mu: float, paired: Counts, relation: Relation, points: int) -> list[LossPmf]:
        """The composed distribution of every direction."""
        step = self._step(mu, paired, relation, points)
        found = []
        for direction in range(_directions(paired, relation)):
            parts = [(_pmf(leaf, relation, direction, step), n) for leaf, n in paired]
            if mu:
                parts.append((_gaussian_pmf(mu, step), 1))
            found.append(Composer(parts).composed([n for _, n in parts]))
        return found

    def _epsilons(self, leaves: list[Event], counts: np.ndarray, delta: float, relation: Relation) -> list[float]:
        """Epsilon at increasing count vectors on a coarser grid, level by level so that small counts stay sharp."""
        values: list[float] = []
        size = counts.sum(axis=1)
        for start, stop in _levels(size):
            rows = counts[start:stop]
            top = [(leaf, int(n)) for leaf, n in zip(leaves, rows[-1], strict=True)]
            mu, paired, _ = _split([(leaf, n) for leaf, n in top if n], relation)
            used = [leaf for leaf, _ in paired]
            columns = [leaves.index(leaf) for leaf in used]
            step = self._step(mu, paired, relation, 2**13)
            squares = np.array([(gaussian_mu(leaf, relation) or 0.0) ** 2 for leaf in leaves])
            best = np.zeros(stop - start)
            for direction in range(_directions(paired, relation)):
                parts = [(_pmf(leaf, relation, direction, step), n) for leaf, n in paired]
                composer = None if mu else Composer(parts)
                for i, row in enumerate(rows):
                    own = math.sqrt(float(row @ squares))
                    extra = [(_gaussian_pmf(own, step), 1)] if own else []
                    used_now = composer or Composer(parts + extra)
                    pmf = used_now.composed([int(n) for n in row[columns]] + [1] * len(extra))
                    best[i] = max(best[i], epsilon_of(pmf, delta))
            values.extend(best.tolist())
        return values

    def _step(self, mu: float, paired: Counts, relation: Relation, points: int) -> float:
        """Grid spacing: ``grid`` times a power of two, so that span and composed window fit into ``points``."""
        widest, total, narrowest = 0.0, mu * mu, math.inf
        for leaf, count in paired:
            span, spread = _size_of(leaf, relation)
            widest, total = max(widest, span), total + count * spread
            narrowest = min(narrowest, math.sqrt(spread) or span)
        if mu:
            widest = max(widest, mu * mu + 20 * mu)
        window = max(widest, 18 * math.sqrt(total))
        if points < self.points:  # a coarse grid must still resolve one step
            window = min(window, narrowest / 3 * points)
        return self.grid * 2.0 ** max(0, math.ceil(math.log2(max(window, widest) / points / self.grid)))


def _split(leaves: Counts, relation: Relation) -> tuple[float, Counts, Counts]:
    """Total mu of the Gaussian releases, releases with a dominating pair, releases known by Renyi bounds only."""
    square, paired, renyi_only = 0.0, [], []
    for leaf, count in leaves:
        mu = gaussian_mu(leaf, relation)
        if mu is not None:
            square += count * mu * mu
        elif pairs_of(leaf, relation) is not None:
            paired.append((leaf, count))
        else:
            renyi_only.append((leaf, count))
    return math.sqrt(square), paired, renyi_only


def _give_away(paired: Counts, relation: Relation) -> bool:
    """Whether some release always tells two neighbours apart: all of its losses are infinite."""
    return any(_infinite(leaf, relation) >= 1.0 for leaf, _ in paired)


@lru_cache(maxsize=256)
def _infinite(leaf: Event, relation: Relation) -> float:
    return max(pair.infinite() for pair in pairs_of(leaf, relation) or ())


def _all_renyi(leaves: Counts, relation: Relation) -> bool:
    try:
        renyi_sum(leaves, relation, 1e-12)
    except AccountingError:
        return False
    return True


def _directions(paired: Counts, relation: Relation) -> int:
    return max((len(pairs_of(leaf, relation) or ()) for leaf, _ in paired), default=1)


@lru_cache(maxsize=24)
def _pmf(leaf: Event, relation: Relation, direction: int, step: float) -> LossPmf:
    pairs = pairs_of(leaf, relation) or ()
    return pairs[direction % len(pairs)].pmf(step)


@lru_cache(maxsize=8)
def _gaussian_pmf(mu: float, step: float) -> LossPmf:
    pair: CurvePair = symmetric(lambda epsilon: gaussian_delta(epsilon, mu))
    return pair.pmf(step)


@lru_cache(maxsize=256)
def _size_of(leaf: Event, relation: Relation) -> tuple[float, float]:
    """Width and variance of one release's loss, from a coarse grid."""
    pairs = pairs_of(leaf, relation) or ()
    spans = [pair.span() for pair in pairs]
    width = max(high - low for low, high in spans) or 1e-3
    return width, max(variance(pair.pmf(width / 4096)) for pair in pairs)


def _checkpoints(steps: np.ndarray, most: int) -> np.ndarray:
    """Indices into ``steps`` that are evaluated: dense at first, then about 2 % apart, always the last."""
    if len(steps) <= most:
        return np.arange(len(steps))
    ladder = np.linspace(max(1, int(steps[0])) ** 0.25, int(steps[-1]) ** 0.25, most) ** 4
    return np.unique(np.clip(np.searchsorted(steps, ladder), 0, len(steps) - 1))


def _levels(size: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of rows whose total counts lie within a factor of four."""
    ranges, start = [], 0
    while start < len(size):
        stop = max(start + 1, int(np.searchsorted(size, 4 * max(1, size[start]), side="right")))
        ranges.append((start, stop))
        start = stop
    return ranges
