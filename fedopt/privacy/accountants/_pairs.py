"""Dominating pairs of events: one pair where both directions agree, else (record removed, record added).

Sampling acts on the hockey-stick curve of the inner pair. For a symmetric inner pair (P, Q) with curve H:

* Poisson with probability q: (1-q)Q + qP against Q, and the reverse (Zhu et al. 2022, Theorem 11, arXiv:2106.08567);
* fixed size, m of n without replacement, replace-one: the curve q H(log(1 + (e^epsilon - 1)/q)), q = m/n, for *both*
  orders (Balle et al. 2018, arXiv:1807.01647): neither single order is certified under composition.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import ndtr
from scipy.stats import binom

from fedopt.privacy.accountants._pmf import AtomPair, Curve, CurvePair, Pair, symmetric
from fedopt.privacy.events import (
    AccountingError,
    Event,
    FixedSizeSampled,
    LaplaceEvent,
    PoissonSampled,
    PureEvent,
    Relation,
    ShuffledSumEvent,
    ShuffleEvent,
    TruncatedPoissonSampled,
    gaussian_mu,
)
from fedopt.privacy.gaussian_dp import gaussian_delta
from fedopt.privacy.shuffle import binomial_shift_curve, clones_pair


@lru_cache(maxsize=256)
def pairs_of(event: Event, relation: Relation) -> tuple[Pair, ...] | None:
    """Pairs that dominate one release, or None if the event is bounded by Renyi divergences only.

    Raises:
        AccountingError: the sampling has no bound for this inner event.
    """
    if isinstance(event, PoissonSampled):
        return _poisson(event, relation)
    if isinstance(event, FixedSizeSampled):
        return _fixed_size(event)
    if isinstance(event, TruncatedPoissonSampled):
        return _truncated(event, relation)
    if isinstance(event, ShuffleEvent):
        return (AtomPair(*clones_pair(event.local_epsilon, event.clients)),)
    if isinstance(event, ShuffledSumEvent) and event.dimension == 1:
        return (symmetric(binomial_shift_curve(event.clients * event.bits, event.bias, event.levels)),)
    curve = base_curve(event, relation)
    return None if curve is None else (symmetric(curve),)


def base_curve(event: Event, relation: Relation) -> Curve | None:
    """Hockey-stick curve of an unsampled event with a symmetric pair, or None."""
    mu = gaussian_mu(event, relation)
    if mu is not None:
        return lambda epsilon: gaussian_delta(epsilon, mu)
    if isinstance(event, PureEvent):
        return lambda epsilon: _pure(epsilon, event.epsilon)
    if isinstance(event, LaplaceEvent):
        total = (2.0 if relation == "replace_one" else 1.0) / event.noise_multiplier
        if event.dimension > 1:
            return lambda epsilon: _pure(epsilon, total)
        return lambda epsilon: -np.expm1(np.minimum((epsilon - total) / 2, 0.0))
    return None


def _pure(epsilon: np.ndarray, total: float) -> np.ndarray:
    """Randomised response, which dominates every ``total``-DP mechanism."""
    return -np.expm1(np.minimum(epsilon - total, 0.0)) / (1 + math.exp(-total))


def _log_amplified(epsilon: np.ndarray, probability: float) -> np.ndarray:
    """log(1 + (e^epsilon - 1)/q) for epsilon >= 0, without overflow."""
    with np.errstate(over="ignore"):
        small = np.log1p(np.expm1(np.minimum(epsilon, 1.0)) / probability)
    large = epsilon - math.log(probability) + np.log1p(-(1 - probability) * np.exp(-epsilon))
    return np.where(epsilon < 1.0, small, large)


def _amplified(curve: Curve, probability: float) -> CurvePair:
    """Poisson pair, record removed: (1-q)Q + qP against Q, and its reverse."""

    def forward(epsilon: np.ndarray) -> np.ndarray:
        return probability * curve(_log_amplified(epsilon, probability))

    def backward(epsilon: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            rest = probability - np.expm1(epsilon) * (1 - probability)
            inner = epsilon + math.log(probability) - np.log(np.maximum(rest, 1e-300))
            return np.where(rest > 0, rest * curve(np.maximum(np.where(rest > 0, inner, 0.0), 0.0)), 0.0)

    return CurvePair(forward, backward)


def _poisson(event: PoissonSampled, relation: Relation) -> tuple[Pair, ...] | None:
    probability, inner = event.probability, event.event
    if probability == 0:
        return (AtomPair(np.zeros(1), np.ones(1), 0.0),)
    if probability == 1:
        return pairs_of(inner, relation)
    curve = base_curve(inner, relation)
    if curve is None:
        return None
    if relation == "replace_one":
        std = 2.0 / (gaussian_mu(inner, relation) or math.inf)
        return (symmetric(_poisson_replace_curve(probability, std)),)
    removed = _amplified(curve, probability)
    return removed, CurvePair(removed.backward, removed.forward)


def _poisson_replace_curve(probability: float, std: float) -> Curve:
    """(1-q)N(0,s^2) + qN(1,s^2) against (1-q)N(0,s^2) + qN(-1,s^2): the loss increases in the observation."""
    q, variance = probability, std * std
    if std < 0.1:  # exponents would overflow; sampling cannot help there, and forgetting it is valid
        return lambda epsilon: gaussian_delta(epsilon, 2.0 / std)

    def curve(epsilon: np.ndarray) -> np.ndarray:
        small = np.minimum(epsilon, 300.0)
        grown, shrink = np.expm1(small), math.exp(-1 / (2 * variance))
        half = (1 - q) * grown / (2 * q * shrink)
        threshold = variance * np.log(half + np.sqrt(half * half + 1 + grown))
        above, below = ndtr((1 - threshold) / std), ndtr((-1 - threshold) / std)
        delta = q * (above - (1 + grown) * below) - (1 - q) * grown * ndtr(-threshold / std)
        return np.where(epsilon <= 300.0, np.clip(delta, 0.0, 1.0), 0.0)

    if float(curve(np.array([300.0]))[0]) > 0:
        raise AccountingError(f"noise_multiplier {std} is too small to account Poisson sampling under replace_one")
    return curve


def _fixed_size(event: FixedSizeSampled) -> tuple[Pair, ...] | None:
    ratio = event.sample_size / event.population
    if isinstance(event.event, ShuffleEvent):
        if event.event.clients != event.sample_size:
            raise AccountingError(
                f"{event.event.clients} clients are shuffled but {event.sample_size} are sampled; they must be equal"
            )
        return (_joint_atoms(AtomPair(*clones_pair(event.event.local_epsilon, event.event.clients)), ratio),)
    curve = base_curve(event.event, "replace_one")
    if curve is None:
        return None
    return (symmetric(lambda epsilon: ratio * curve(_log_amplified(epsilon, ratio))),)


def _joint_atoms(pair: AtomPair, ratio: float) -> AtomPair:
    """Fixed-size sampling of a symmetric discrete pair: positive losses of one order, negative ones of the other."""
    up, down = pair.losses > 0, pair.losses < 0
    losses = np.concatenate([np.log1p(ratio * np.expm1(pair.losses[up])), [0.0]])
    lowered = -np.log1p(ratio * np.expm1(-pair.losses[down]))
    gained = pair.masses[up] * ((1 - ratio) * np.exp(-pair.losses[up]) + ratio)
    infinity = ratio * pair.infinity
    rest = max(0.0, 1.0 - gained.sum() - pair.masses[down].sum() - infinity)
    return AtomPair(
        np.concatenate([losses, lowered]), np.concatenate([gained, [rest], pair.masses[down]]), pair.infinity
    )


def _truncated(event: TruncatedPoissonSampled, relation: Relation) -> tuple[Pair, ...]:
    """Poisson batch cut to its first ``batch_limit`` members.

    With probability tau, given that the record was drawn, another record leaves the batch for it: then the sum moves by
    up to 2C, which is accounted as replace-one at half the multiplier (dp-accounting's mixture).
    """
    limit, size, probability = event.batch_limit, event.population, event.probability
    crowded = float(binom.sf(limit - 1, size - 1, probability))
    plain = _poisson(PoissonSampled(probability, event.event), relation) or ()
    if crowded == 0:
        return plain
    conditional = min(1.0, float(binom.sf(limit, size, probability)) * limit / crowded / size)
    std = event.event.noise_multiplier / 2
    pushed = symmetric(
        _poisson_replace_curve(conditional, std) if conditional < 1 else lambda e: gaussian_delta(e, 2.0 / std)
    )
    return tuple(_mixture(pushed, pair, crowded) for pair in plain if isinstance(pair, CurvePair))


def _mixture(first: CurvePair, second: CurvePair, weight: float) -> CurvePair:
    return CurvePair(
        lambda e: weight * first.forward(e) + (1 - weight) * second.forward(e),
        lambda e: weight * first.backward(e) + (1 - weight) * second.backward(e),
    )
