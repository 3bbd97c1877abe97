"""Renyi divergences of events, and their conversion to epsilon.

The replace-one sensitivity 2C is applied here, before any library formula sees a multiplier: dp-accounting 0.6's own
RDP accountant ignores it. Formulas: Mironov 2017 (Laplace, conversion of pure guarantees); Mironov, Talwar, Zhang 2019
(sampled Gaussian, evaluated by dp-accounting); Zhu and Wang 2019 (Poisson sampling of any mechanism); Wang et al. 2019
(sampling without replacement); Agarwal et al. 2021 (Skellam); Kairouz et al. 2021 (distributed discrete Gaussian);
Canonne et al. 2020, Proposition 12 (tight conversion).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, logsumexp

from fedopt.privacy.events import (
    AccountingError,
    DiscreteGaussianEvent,
    Event,
    FixedSizeSampled,
    GaussianEvent,
    LaplaceEvent,
    PoissonSampled,
    PureEvent,
    Relation,
    ShuffledSumEvent,
    ShuffleEvent,
    SkellamEvent,
    gaussian_mu,
)
from fedopt.privacy.shuffle import clones_pair
from fedopt.privacy.shuffle_sum import vector_renyi

ORDERS = np.array(
    [1 + x / 10 for x in range(1, 100)] + list(range(11, 64)) + [72, 84, 100, 128, 160, 200, 256, 360, 512, 1024], float
)


@lru_cache(maxsize=512)
def renyi(event: Event, relation: Relation, truncation: float) -> np.ndarray:
    """Bounds at ``ORDERS`` (inf where there is none), outside an event whose mass ``reserve`` takes from delta.

    Only ``ShuffledSumEvent`` uses the truncation.

    Raises:
        AccountingError: no Renyi bound is known; says which accountant to use.
    """
    factor = 2.0 if relation == "replace_one" else 1.0
    mu = gaussian_mu(event, relation)
    if mu is not None:
        return ORDERS * mu * mu / 2
    match event:
        case PureEvent():
            return _pure(event.epsilon)
        case LaplaceEvent():
            scale = factor / event.noise_multiplier
            return _laplace(scale) if event.dimension == 1 else _pure(scale)
        case SkellamEvent():
            return _skellam(factor * event.l1, factor * event.l2, event.variance, event.scale)
        case DiscreteGaussianEvent():
            return _discrete_gaussian(event, factor)
        case ShuffleEvent():
            return _shuffle(event)
        case ShuffledSumEvent():
            return _shuffled_sum(event, truncation)
        case PoissonSampled():
            return _poisson(event, relation)
        case FixedSizeSampled() if isinstance(event.event, GaussianEvent):
            return _fixed_size(event.sample_size / event.population, event.event.noise_multiplier / 2)
    raise AccountingError(f"{event.kind} has no Renyi bound here under {relation}; use accountant: pld")


def renyi_epsilon(leaves: list[tuple[Event, int]], delta: float, relation: Relation) -> float:
    """Epsilon of releases with counts; what the bounds leave out is paid from ``delta``."""
    truncation, left = reserve(leaves, delta)
    return epsilon_of_renyi(renyi_sum(leaves, relation, truncation), left, delta - left)


def renyi_sum(leaves: list[tuple[Event, int]], relation: Relation, truncation: float) -> np.ndarray:
    """Bounds of a composition at ``ORDERS``."""
    return np.asarray(sum((n * renyi(leaf, relation, truncation) for leaf, n in leaves), np.zeros(len(ORDERS))))


def reserve(leaves: list[tuple[Event, int]], delta: float) -> tuple[float, float]:
    """Truncation of every vector sum (a tenth of delta for all), and the delta left for the conversion."""
    sums = sum(n for leaf, n in leaves if truncates(leaf))
    truncation = delta / 10 / sums if sums else 0.0
    return truncation, delta - truncation * sums - omitted(leaves)


def omitted(leaves: list[tuple[Event, int]]) -> float:
    """Mass that the atoms of shuffles leave out: it has infinite loss, and is paid from delta."""
    return float(
        sum(
            n * clones_pair(leaf.local_epsilon, leaf.clients)[2] for leaf, n in leaves if isinstance(leaf, ShuffleEvent)
        )
    )


def truncates(event: Event) -> bool:
    """Whether the bound holds only outside an event of a mass that is chosen per delta."""
    return isinstance(event, ShuffledSumEvent)


def require_curve(leaves: list[tuple[Event, int]]) -> None:
    """Refuse delta as a function of epsilon where the bound is certified at one delta only."""
    if any(truncates(leaf) for leaf, _ in leaves):
        raise AccountingError("the vector sum is certified at one delta at a time, so it has no trade-off curve")


def renyi_delta(leaves: list[tuple[Event, int]], epsilon: np.ndarray, relation: Relation) -> np.ndarray:
    """Delta of releases with counts at every epsilon >= 0 (shape (n,)), with what the bounds leave out.

    Raises:
        AccountingError: a bound is certified at one delta only.
    """
    require_curve(leaves)
    return delta_of_renyi(renyi_sum(leaves, relation, 0.0), epsilon, omitted(leaves))


def epsilon_of_renyi(bounds: np.ndarray, delta: float, left_out: float = 0.0) -> float:
    """Tight conversion, minimised over orders: r + log(1 - 1/a) - log(delta a) / (a - 1); 0 if r is tiny.

    Args:
        bounds: at ``ORDERS``, of a measure that lacks ``left_out`` of its mass.
        delta: without ``left_out``.
    """
    finite = np.isfinite(bounds)
    if not finite.any():
        return math.inf
    orders, bounds = ORDERS[finite], bounds[finite]
    if (delta**2 + np.expm1(-_normalised(bounds, orders, left_out)) > 0).any():
        return 0.0
    return max(0.0, float(np.min(bounds + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1))))


def delta_of_renyi(bounds: np.ndarray, epsilon: np.ndarray, left_out: float = 0.0) -> np.ndarray:
    """The same conversion solved for delta, at every epsilon >= 0 (shape (n,)), with ``left_out`` added."""
    finite = np.isfinite(bounds)
    if not finite.any():
        return np.ones(np.shape(epsilon))
    orders, bounds = ORDERS[finite], bounds[finite]
    kullback = 0.5 * np.log(-np.expm1(-np.maximum(_normalised(bounds, orders, left_out), 1e-300)))
    log_delta = (orders - 1) * (bounds - np.atleast_1d(epsilon)[:, None] + np.log1p(-1 / orders)) - np.log(orders)
    return np.minimum(np.exp(np.minimum(log_delta, kullback).min(axis=1)) + left_out, 1.0)


def _normalised(bounds: np.ndarray, orders: np.ndarray, left_out: float) -> np.ndarray:
    """Divergences of the measure scaled up to mass 1, which a bound on the total variation needs.

    A truncated log-moment may be 0 although the release says something: without this, epsilon would be 0 there.
    """
    return bounds - orders / (orders - 1) * math.log1p(-left_out)


def _pure(epsilon: float) -> np.ndarray:
    """Randomised response: the largest Renyi divergence of any epsilon-DP release."""
    up, down = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    terms = np.stack([ORDERS * up + (1 - ORDERS) * down, ORDERS * down + (1 - ORDERS) * up])
    return np.asarray(np.maximum(logsumexp(terms, axis=0), 0.0) / (ORDERS - 1))


def _laplace(epsilon: float) -> np.ndarray:
    terms = np.stack([(ORDERS - 1) * epsilon, -ORDERS * epsilon])
    weights = np.stack([ORDERS, ORDERS - 1]) / (2 * ORDERS - 1)
    return np.asarray(np.maximum(logsumexp(terms, axis=0, b=weights), 0.0) / (ORDERS - 1))


def _skellam(l1: float, l2: float, variance: float, scale: float) -> np.ndarray:
    """Norms and variance in real units: an integer variance with a real norm would be wrong by scale squared.

    The bound is proved at integer orders (Corollary 4.1); between them the cumulant is interpolated.
    """

    def cumulant(orders: np.ndarray) -> np.ndarray:
        shared = 4 * scale**3 * variance**2
        extra = np.minimum(((2 * orders - 1) * scale * l2**2 + 6 * l1) / shared, 3 * l1 / (2 * scale * variance))
        return (orders - 1) * (orders * l2**2 / (2 * variance) + extra)

    below, share = np.floor(ORDERS), ORDERS - np.floor(ORDERS)
    return ((1 - share) * cumulant(below) + share * cumulant(below + 1)) / (ORDERS - 1)


def _discrete_gaussian(event: DiscreteGaussianEvent, factor: float) -> np.ndarray:
    steps = np.arange(1, event.clients)
    integer_std = event.scale * event.standard_deviation
    tau = 10 * float(np.exp(-2 * (math.pi * integer_std) ** 2 * steps / (steps + 1)).sum())
    spread = math.sqrt(event.clients) * event.standard_deviation
    d2, d1, d = factor * event.l2 / spread, factor * event.l1 / spread, event.dimension
    return np.minimum(
        ORDERS / 2 * d2**2 + tau * d,
        ORDERS / 2 * min(d2**2 + 2 * d1 * tau + tau**2 * d, (d2 + math.sqrt(d) * tau) ** 2),
    )


def _shuffle(event: ShuffleEvent) -> np.ndarray:
    losses, masses, _ = clones_pair(event.local_epsilon, event.clients)  # the omitted mass is paid in ``reserve``
    log_masses = np.log(masses)
    moments = [logsumexp((order - 1) * losses + log_masses) for order in ORDERS]
    return np.maximum(np.array(moments), 0.0) / (ORDERS - 1)


def _shuffled_sum(event: ShuffledSumEvent, truncation: float) -> np.ndarray:
    bounds = np.full(len(ORDERS), math.inf)
    trials = event.clients * event.bits
    for order, bound in vector_renyi(trials, event.bias, event.levels, event.dimension, truncation):
        bounds[np.isclose(ORDERS, order)] = bound
    return bounds


def _poisson(event: PoissonSampled, relation: Relation) -> np.ndarray:
    if relation == "replace_one":
        raise AccountingError("Poisson sampling under replace_one has no Renyi bound here; use accountant: pld")
    if event.probability == 0:
        return np.zeros(len(ORDERS))
    if event.probability == 1:
        return renyi(event.event, relation, 0.0)
    mu = gaussian_mu(event.event, relation)
    if mu is not None:
        return _poisson_gaussian(event.probability, 1 / mu)
    if isinstance(event.event, (PureEvent, LaplaceEvent, SkellamEvent, DiscreteGaussianEvent)):
        inner = renyi(event.event, relation, 0.0)
        return np.minimum(inner, _poisson_of_any(event.probability, inner))
    raise AccountingError(
        f"Poisson sampling of {event.event.kind} is not an amplification anyone has proved. In particular a client "
        "sampling rate never multiplies a record sampling rate, since a client's records arrive together: account "
        "the inner event alone."
    )


@lru_cache(maxsize=256)
def _poisson_gaussian(probability: float, noise_multiplier: float) -> np.ndarray:
    import dp_accounting  # a second to import: only where it is needed

    accountant = dp_accounting.rdp.RdpAccountant(list(ORDERS))
    inner = dp_accounting.GaussianDpEvent(float(noise_multiplier))
    accountant.compose(dp_accounting.PoissonSampledDpEvent(float(probability), inner))
    return np.asarray(accountant.rdp)


def _poisson_of_any(q: float, inner: np.ndarray) -> np.ndarray:
    """Zhu and Wang 2019, at integer orders; ``inner`` are bounds at ``ORDERS``."""
    at = {int(order): bound for order, bound in zip(ORDERS, inner, strict=True) if float(order).is_integer()}
    bounds = np.full(len(ORDERS), math.inf)
    for position, order in enumerate(ORDERS):
        if not (float(order).is_integer() and order <= 63):
            continue
        a = int(order)
        terms = [(a - 1) * math.log1p(-q) + math.log(a * q - q + 1)]
        for moment in range(2, a + 1):
            constant = 0.0 if moment == 2 else math.log(3)
            choose = gammaln(a + 1) - gammaln(moment + 1) - gammaln(a - moment + 1)
            sampled = (a - moment) * math.log1p(-q) + moment * math.log(q)
            terms.append(constant + choose + sampled + (moment - 1) * at[moment])
        bounds[position] = float(logsumexp(terms)) / (a - 1)
    return bounds


@lru_cache(maxsize=64)
def _fixed_size(ratio: float, multiplier: float) -> np.ndarray:
    """Wang et al. 2019, ``multiplier`` relative to the replace-one sensitivity; integer orders, then interpolated."""
    if ratio == 1:
        return ORDERS / (2 * multiplier**2)

    def rate(order: int) -> float:
        return order / (2 * multiplier**2)

    cumulants = {1: 0.0}
    for a in range(2, 65):
        log_choose = gammaln(a + 1) - gammaln(np.arange(a + 1) + 1) - gammaln(a - np.arange(a + 1) + 1)
        second = min(math.log(4) + rate(2) + math.log(-math.expm1(-rate(2))), math.log(2) + rate(2))
        terms = [0.0, 2 * math.log(ratio) + log_choose[2] + second]
        terms += [math.log(2) + log_choose[j] + j * math.log(ratio) + (j - 1) * rate(j) for j in range(3, a + 1)]
        cumulants[a] = float(logsumexp(terms))
    bounds = np.full(len(ORDERS), math.inf)
    for position, order in enumerate(ORDERS):
        if order <= 64:
            below, share = math.floor(order), order - math.floor(order)
            above = cumulants[below + 1] if share else 0.0
            bounds[position] = ((1 - share) * cumulants[below] + share * above) / (order - 1)
    return bounds
