"""Private quantiles and private feature preprocessing: for clipping norms, feature scales, reports. No torch.

Quantiles of values on a public range [low, high], by the exponential mechanism, recursively, or from a histogram; and
the preprocessing of DPSGD-F (private mean, private radius, bias coordinate) for linear models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from fedopt.privacy.releases import Event, GaussianEvent, PureEvent

Neighbours = Literal["add_or_remove_one", "replace_one"]


def quantile(
    values: Sequence[float] | np.ndarray,
    level: float,
    low: float,
    high: float,
    epsilon: float,
    draw: np.random.Generator,
) -> float:
    """One quantile by the exponential mechanism: purely ``epsilon``-DP, under replace-one and under add-or-remove.

    Interval k between neighbouring sorted values has utility ``-|k - level * n|`` (sensitivity 1) and is chosen with
    probability proportional to ``length * exp(epsilon * utility / 2)``; the output is uniform inside it.

    Args:
        values: one number per unit; clipped to the range.
        level: in [0, 1].
        low, high: public range, low < high.
        epsilon: budget > 0.
        draw: randomness; named and seeded in simulation, from the operating system when deployed.
    Returns:
        A number in [low, high].
    Raises:
        ValueError: empty range, level or budget out of range.

    References: Smith 2011, Privacy-Preserving Statistical Estimation with Optimal Convergence Rates, Algorithm 2.
    """
    _check(level, low, high, epsilon)
    edges = np.concatenate([[low], np.sort(np.clip(values, low, high)), [high]])
    count = len(edges) - 2
    lengths = np.diff(edges)
    with np.errstate(divide="ignore"):
        scores = np.log(lengths) - epsilon / 2 * np.abs(np.arange(count + 1) - level * count)
    weights = np.exp(scores - scores.max())
    chosen = int(draw.choice(count + 1, p=weights / weights.sum()))
    return float(draw.uniform(edges[chosen], edges[chosen + 1]))


def quantiles(
    values: Sequence[float] | np.ndarray,
    levels: Sequence[float],
    low: float,
    high: float,
    epsilon: float,
    draw: np.random.Generator,
    neighbours: Neighbours = "replace_one",
) -> np.ndarray:
    """Several quantiles by recursion: the middle one splits the data, then both halves; ascending.

    With m levels the depth is ``h = ceil(log2(m + 1))``. Under add-or-remove the data sets of one depth are disjoint,
    so every call gets ``epsilon / h``; under replace-one a unit may leave one branch and enter another:
    ``epsilon / (2h)``. The whole is purely ``epsilon``-DP.

    Raises:
        ValueError: levels not ascending, or numbers out of range.

    References: Kaplan, Schnapp, Stemmer 2022, Differentially Private Approximate Quantiles, Algorithm 1,
    arXiv:2110.05429.
    """
    wanted = np.asarray(levels, float)
    if len(wanted) == 0 or np.any(np.diff(wanted) <= 0):
        raise ValueError(f"levels must be ascending and not empty, got {list(levels)}")
    for level in wanted:
        _check(float(level), low, high, epsilon)
    depth = math.ceil(math.log2(len(wanted) + 1))
    share = epsilon / depth / (2 if neighbours == "replace_one" else 1)
    ordered = np.sort(np.clip(values, low, high))
    return np.array(_recursive(ordered, wanted, low, high, share, draw))


def _recursive(
    ordered: np.ndarray, levels: np.ndarray, low: float, high: float, epsilon: float, draw: np.random.Generator
) -> list[float]:
    if len(levels) == 0:
        return []
    if not low < high:
        return [low] * len(levels)
    middle = len(levels) // 2
    level = float(levels[middle])
    found = quantile(ordered, level, low, high, epsilon, draw)
    # Levels of a half are counted within it: below, those of the lower share; above, those of the rest.
    below = levels[:middle] / level
    above = (levels[middle + 1 :] - level) / (1 - level)
    return [
        *_recursive(ordered[ordered < found], below, low, found, epsilon, draw),
        found,
        *_recursive(ordered[ordered >= found], above, found, high, epsilon, draw),
    ]


def histogram_quantiles(
    values: Sequence[float] | np.ndarray,
    levels: Sequence[float],
    low: float,
    high: float,
    epsilon: float,
    draw: np.random.Generator,
    bins: int = 64,
    neighbours: Neighbours = "replace_one",
) -> np.ndarray:
    """Any number of quantiles from one noisy histogram: one secure sum of counts; non-decreasing in the level.

    Counts get Laplace noise of scale ``1 / epsilon`` (add-or-remove) or ``2 / epsilon`` (replace-one), are clipped at 0
    and their linear cumulative distribution is inverted. Purely ``epsilon``-DP; the error does not grow with the
    number of levels.

    References: Lalanne, Garivier, Gribonval 2023, Private Statistical Estimation of Many Quantiles, arXiv:2302.06943.
    """
    for level in levels:
        _check(level, low, high, epsilon)
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    scale = (2 if neighbours == "replace_one" else 1) / epsilon
    noisy = np.clip(counts + draw.laplace(0.0, scale, bins), 0.0, None)
    total = noisy.sum()
    if total <= 0:
        return np.interp(np.asarray(levels, float), [0.0, 1.0], [low, high])
    share = np.concatenate([[0.0], np.cumsum(noisy) / total])
    return np.interp(np.asarray(levels, float), share, edges)


def clipping_norm_of(
    norms: Sequence[float] | np.ndarray, level: float, largest: float, epsilon: float, draw: np.random.Generator
) -> float:
    """A clipping norm: a private quantile of contribution norms on [0, ``largest``]; pay ``epsilon`` for it."""
    return quantile(norms, level, 0.0, largest, epsilon, draw)


class Preprocessed(NamedTuple):
    """Private centring of features for linear models (DPSGD-F).

    Args:
        features: ``[n, d + 1]``: centred, clipped to ``radius``, with ``radius`` as the last coordinate (the bias).
        mean: private mean ``[d]``.
        radius: private quantile of the distances from it.
    """

    features: np.ndarray
    mean: np.ndarray
    radius: float

    def clipping_norm(self, lipschitz: float = 1.0) -> float:
        """Largest gradient norm of a loss ``lipschitz`` in the linear score: ``lipschitz * sqrt(2) * radius``."""
        return lipschitz * math.sqrt(2.0) * self.radius

    def original_model(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``[..., d]`` and bias ``[...]`` for raw features, from weights ``[..., d + 1]`` for these ones."""
        kept = weights[..., :-1]
        return kept, self.radius * weights[..., -1] - kept @ self.mean


def preprocess_features(
    features: np.ndarray,
    norm_bound: float,
    rho_mean: float,
    rho_radius: float,
    draw: np.random.Generator,
    outside: float = 0.05,
) -> Preprocessed:
    """Subtract a private mean, clip to a private radius, carry the bias in one more coordinate.

    The mean of features clipped to ``norm_bound`` gets Gaussian noise of std ``(2 R0 / n) / sqrt(2 rho_mean)``; the
    radius is the (1 - ``outside``) quantile of the distances by the exponential mechanism of epsilon
    ``sqrt(8 rho_radius)``. Replace-one, n public; together ``rho_mean + rho_radius`` zCDP.

    Args:
        features: ``[n, d]``.
        norm_bound: public bound R0 on feature norms; larger ones are clipped.
        rho_mean, rho_radius: zCDP budgets > 0.
        draw: randomness.
        outside: share of examples that may be clipped.

    References: Sun, Suresh, Menon 2024, The Importance of Feature Preprocessing for Differentially Private Linear
    Optimization, Algorithm 2, arXiv:2307.11106.

    Differences from the paper: order and split of the budget are chosen here.
    """
    clipped = _clip_rows(features, norm_bound)
    std = 2 * norm_bound / len(features) / math.sqrt(2 * rho_mean)
    mean = clipped.mean(0) + draw.normal(0.0, std, features.shape[1])
    centred = features - mean
    distances = np.linalg.norm(centred, axis=1)
    radius = quantile(distances, 1 - outside, 0.0, 2 * norm_bound, math.sqrt(8 * rho_radius), draw)
    inside = _clip_rows(centred, radius)
    return Preprocessed(np.hstack([inside, np.full((len(features), 1), radius)]), mean, radius)


def preprocessing_events(rho_mean: float, rho_radius: float) -> tuple[Event, ...]:
    """What ``preprocess_features`` costs, to be composed with a run's ledger (replace-one, n public).

    The mean is one Gaussian release of ``rho_mean`` zCDP: mu^2 / 2 with mu = 2 / multiplier. The exponential mechanism
    of ``epsilon = sqrt(8 rho_radius)`` is epsilon^2 / 8 zCDP and purely epsilon-DP, which is what is composed.

    >>> preprocessing_events(0.02, 0.005)
    (GaussianEvent(noise_multiplier=10.0), PureEvent(epsilon=0.2, relation='replace_one'))
    """
    return GaussianEvent(2 / math.sqrt(2 * rho_mean)), PureEvent(math.sqrt(8 * rho_radius))


def _clip_rows(rows: np.ndarray, bound: float) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.minimum(1.0, bound / np.maximum(norms, 1e-300))


def _check(level: float, low: float, high: float, epsilon: float) -> None:
    if not (0 <= level <= 1 and low < high and epsilon > 0):
        raise ValueError(f"need level in [0, 1], low < high and epsilon > 0, got {level}, [{low}, {high}], {epsilon}")
