"""Shuffle model, numerically: amplification of a pure local guarantee, and the two-point sum protocols.

* ``clones_*``: hiding among the clones, the numeric bound of Feldman, McMillan and Talwar 2021 (arXiv:2012.12803),
  valid for every pure local randomiser and not affected by the erratum of the later paper. Its dominating pair is
  composed over rounds by the PLD accountant.
* ``binomial_*``: the exact privacy of the scalar sum P_1D (Cheu et al. 2022, arXiv:2106.09805), an integer sum hidden
  by Bin(N, p). ``vector_sum_*`` (in ``shuffle_sum``) certifies P_VEC.

The unit's record is replaced; the number of delivered honest messages is public. Closed forms are much larger and
appear in tests only. Shuffled *Gaussian* noise has no known upper bound: the published Renyi formula bounds one data
set, not all of them, so it is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import gammaln
from scipy.stats import binom

from fedopt.privacy.releases import AccountingError

_TAIL = 1e-19
_ATOMS = 1.5e6  # largest number of atoms of the discretised clones pair
Curve = Callable[[np.ndarray], np.ndarray]


def clones_delta(
    epsilon: float | np.ndarray, local_epsilon: float, clients: int, clone_probability: float | None = None
) -> np.ndarray:
    """delta at ``epsilon`` >= 0 of ``clients`` shuffled ``local_epsilon``-DP messages, for the clones pair.

    Args:
        epsilon: any shape, >= 0.
        local_epsilon: guarantee of every message, > 0.
        clients: messages in the shuffle, the unit's own included, >= 1.
        clone_probability: chance that another message is a clone; default exp(-local_epsilon), valid for every
            randomiser. 2 / (exp(local_epsilon) + 1) is valid for binary and k-ary randomised response only.
    """
    chance = math.exp(-local_epsilon) if clone_probability is None else clone_probability
    return _clones_curve(local_epsilon, clients, chance)(np.asarray(epsilon, float))


def clones_epsilon(local_epsilon: float, clients: int, delta: float, clone_probability: float | None = None) -> float:
    """Amplified epsilon of one round at ``delta``; at most ``local_epsilon``.

    >>> round(clones_epsilon(4.0, 100_000, 1e-6), 4)
    0.1698
    """
    if not 0 < delta < 1:
        raise AccountingError(f"delta must be in (0, 1), got {delta}")
    low, high = 0.0, local_epsilon
    if clones_delta(0.0, local_epsilon, clients, clone_probability) <= delta:
        return 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if clones_delta(middle, local_epsilon, clients, clone_probability) <= delta:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=2)
def _clones_curve(local_epsilon: float, clients: int, chance: float) -> Curve:
    losses, masses, infinity = _clones_atoms(local_epsilon, clients, chance)
    return _curve_of_atoms(losses, masses, infinity)


def _curve_of_atoms(losses: np.ndarray, masses: np.ndarray, infinity: float) -> Curve:
    """Hockey-stick curve of a discrete pair with ``infinity`` more mass of infinite loss."""
    order = np.argsort(losses)
    losses, masses = losses[order], masses[order]
    against = masses * np.exp(-np.minimum(losses, 700.0)) * np.isfinite(losses)
    mass_above = np.append(np.cumsum(masses[::-1])[::-1], 0.0)
    against_above = np.append(np.cumsum(against[::-1])[::-1], 0.0)

    def curve(epsilon: np.ndarray) -> np.ndarray:
        index = np.searchsorted(losses, epsilon, side="right")
        lowered = np.exp(np.minimum(epsilon, 700.0)) * against_above[index]
        return np.clip(mass_above[index] - lowered + infinity, 0.0, 1.0)

    return curve


def _clone_counts(clients: int, chance: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Numbers of clones in the bulk, their probabilities, and the omitted mass (shape (k,), (k,), scalar)."""
    law = binom(clients - 1, chance)
    count = np.arange(*_bulk(clients - 1, chance, _TAIL))
    return count.astype(float), law.pmf(count), float(law.cdf(count[0] - 1) + law.sf(count[-1]))


def _bulk(trials: int, chance: float, tail: float) -> tuple[int, int]:
    """Range (start, stop) outside of which Bin(trials, chance) has at most ``tail`` on either side (Bernstein)."""
    mean, log = trials * chance, -math.log(tail)
    reach = log / 3 + math.sqrt(log * log / 9 + 2 * log * mean * (1 - chance))
    return max(0, math.floor(mean - reach)), min(trials, math.ceil(mean + reach)) + 1


def clones_pair(local_epsilon: float, clients: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The clones pair as (losses, masses, mass of infinite loss); both orders are the same.

    Where there are very many, numbers of clones are grouped into blocks, each replaced by its smallest member: fewer
    clones hide less, so the pair still dominates.
    """
    return _clones_atoms(local_epsilon, clients, math.exp(-local_epsilon))


def _clones_atoms(local_epsilon: float, clients: int, chance: float) -> tuple[np.ndarray, np.ndarray, float]:
    count, weight, omitted = _clone_counts(clients, chance)
    reach = np.ceil(9.6 * np.sqrt(count.max()) / 2) + 2
    blocks = min(len(count), max(200, int(_ATOMS / (2 * reach))))
    starts = np.unique(np.linspace(0, len(count), blocks + 1).astype(int)[:-1])
    count, weight = count[starts], np.add.reduceat(weight, starts)
    middle = np.floor(count / 2)[:, None]
    kind = middle + np.arange(-reach, reach + 2)[None, :]  # messages of the first kind, 0..count + 1
    total = count[:, None]
    inside = (kind >= 0) & (kind <= total + 1)
    kind = np.clip(kind, 0, total + 1)
    local = math.exp(local_epsilon)
    one, other = kind, total + 1 - kind
    # Bin(c, k-1) = k/(c+1) * choose(c+1, k) / 2^c and Bin(c, k) = (c+1-k)/(c+1) * choose(c+1, k) / 2^c
    log_choose = gammaln(total + 2) - gammaln(one + 1) - gammaln(other + 1) - total * math.log(2)
    mass = np.where(inside, np.exp(log_choose) * (local * one + other) / ((local + 1) * (total + 1)), 0.0)
    mass *= (weight / mass.sum(axis=1))[:, None]
    loss = np.log((local * one + other) / (one + local * other))
    kept = mass > 0
    return loss[kept], mass[kept], omitted + 10 * _TAIL


def binomial_shift_delta(epsilon: float, trials: int, probability: float, shift: int) -> float:
    """Exact delta of hiding an integer sum that moves by ``shift`` under Bin(trials, probability), both orders."""
    return float(binomial_shift_curve(trials, probability, shift)(np.array([epsilon]))[0])


def binomial_shift_curve(trials: int, probability: float, shift: int) -> Curve:
    """Hockey-stick curve of Bin(trials, p) + shift against Bin(trials, p): the larger of both orders.

    The binomial is log-concave, so the curve of ``shift`` dominates the curves of all smaller shifts (the likelihood
    ratio of a shift is monotone, hence the best set is a half-line, and moving further only makes it likelier).
    """
    law = binom(trials, probability)
    value = np.arange(*_bulk(trials, probability, 1e-22))
    here = law.logpmf(value)
    ends = float(law.cdf(value[0] - 1) + law.sf(value[-1]))
    curves = []
    for moved in (value + shift, value - shift):  # loss of the noise value against being at the neighbour's
        there = law.logpmf(moved)
        curves.append(_curve_of_atoms(np.where(np.isfinite(there), here - there, np.inf), np.exp(here), ends))
    return lambda epsilon: np.maximum(curves[0](epsilon), curves[1](epsilon))
