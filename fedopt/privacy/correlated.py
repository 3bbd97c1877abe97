"""Correlated noise (DP-FTRL): trees, banded and Toeplitz matrix mechanisms, BLT. NumPy only.

The workload A (prefix sums) is factored as A = B C. Released is G + C^-1 Z with Z i.i.d. Gaussian of standard deviation
``noise_multiplier * clipping_norm``; the privacy of the whole run is one Gaussian release of sensitivity ``sens(C)``,
the L2 norm by which one unit moves C G when each contribution has norm at most 1. That depends on how often (at most
``participations`` = k) and how far apart (at least ``separation`` = b steps) a unit takes part, which must be enforced.

References: Kairouz et al. 2021, arXiv:2103.00039 (tree); Honaker 2015 (variance reduction); Choquette-Choo et al. 2023,
arXiv:2306.08153 (banded, Algorithm 5 and Theorems 2 to 4); Kalinin and Lampert 2024, arXiv:2405.13763 (Toeplitz);
Dvijotham et al. 2024, arXiv:2404.16706 and McMahan et al. 2024, arXiv:2408.08868 (BLT).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fedopt.privacy.events import Event, GaussianEvent, PoissonSampled, Repeated

# ---- trees ---------------------------------------------------------------------------------------------------------


def tree_height(steps: int) -> int:
    """Nodes of a tree over ``steps`` that one step touches: ceil(log2(steps + 1)).

    >>> tree_height(1023), tree_height(1024)
    (10, 11)
    """
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")
    return steps.bit_length()


def prefix_nodes(step: int) -> list[tuple[int, int]]:
    """Node intervals (first, last) whose sum is the prefix 1..step: popcount(step) of them.

    >>> prefix_nodes(6)
    [(1, 4), (5, 6)]
    """
    nodes, start = [], 1
    for bit in range(step.bit_length() - 1, -1, -1):
        if step >> bit & 1:
            nodes.append((start, start + (1 << bit) - 1))
            start += 1 << bit
    return nodes


def honaker_variance(level: int) -> float:
    """Variance of a node at ``level`` (leaf = 0) after combining it with its subtree, over that of its own noise."""
    return 1.0 / (2.0 - 2.0**-level)


# ---- participation patterns ----------------------------------------------------------------------------------------


def participation_patterns(steps: int, participations: int, separation: int) -> Iterator[tuple[int, ...]]:
    """Every set of at most k steps (0-based) that are at least b apart; exponential, for tests and tiny n."""

    def extend(chosen: tuple[int, ...], start: int) -> Iterator[tuple[int, ...]]:
        yield chosen
        if len(chosen) < participations:
            for step in range(start, steps):
                yield from extend((*chosen, step), step + separation)

    return extend((), 0)


def largest_pattern_sum(values: np.ndarray, participations: int, separation: int) -> float:
    """max over patterns of the sum of ``values`` at the chosen steps, by F[i, k] = max(x_i + F[i+b, k-1], F[i+1, k]).

    Args:
        values: shape (n,), >= 0.
    """
    n = len(values)
    best = np.zeros(n + separation + 1)
    for _ in range(participations):
        extended = np.zeros(n + separation + 1)
        for i in range(n - 1, -1, -1):
            extended[i] = max(values[i] + best[i + separation], extended[i + 1])
        best = extended
    return float(best[0])


# ---- sensitivities -------------------------------------------------------------------------------------------------


def single_sensitivity(encoder: np.ndarray) -> float:
    """One participation: the largest column norm of C, shape (n, n)."""
    return float(np.linalg.norm(encoder, axis=0).max())


def banded_sensitivity(encoder: np.ndarray, participations: int, separation: int) -> float:
    """Exact for lower-triangular C with at most ``separation`` bands: columns of one unit do not overlap.

    Raises:
        ValueError: C has more bands than the separation.
    """
    rows, columns = np.nonzero(encoder)
    bands = int((rows - columns).max()) + 1 if len(rows) else 1
    if (rows < columns).any() or bands > separation:
        raise ValueError(f"needs a lower-triangular matrix with at most {separation} bands, got {bands}")
    return math.sqrt(largest_pattern_sum((encoder**2).sum(axis=0), participations, separation))


def sensitivity_bound(encoder: np.ndarray, participations: int, separation: int) -> float:
    """Upper bound for any C: sums over both members of a pair of steps of |C^T C| (largest entries alone are not)."""
    gram = np.abs(encoder.T @ encoder)
    per_row = np.array([largest_pattern_sum(row, participations, separation) for row in gram])
    return math.sqrt(largest_pattern_sum(per_row, participations, separation))


def toeplitz_sensitivity(coefficients: np.ndarray, participations: int, separation: int) -> float:
    """Exact for a lower-triangular Toeplitz C with non-negative, non-increasing first column, shape (n,).

    Raises:
        ValueError: coefficients are negative or increase; use ``sensitivity_bound``.
    """
    if (coefficients < 0).any() or (np.diff(coefficients) > 1e-12).any():
        raise ValueError("needs non-negative, non-increasing coefficients; use sensitivity_bound")
    total = np.zeros(len(coefficients))
    for shift in range(0, min(len(coefficients), participations * separation), separation):
        total[shift:] += coefficients[: len(coefficients) - shift]
    return float(np.linalg.norm(total))


# ---- Toeplitz factors ----------------------------------------------------------------------------------------------


def square_root_coefficients(steps: int) -> np.ndarray:
    """First column of the square root of the prefix-sum matrix: 1, 1/2, 3/8, 5/16, ... (shape (steps,)).

    >>> [float(c) for c in square_root_coefficients(4)]
    [1.0, 0.5, 0.375, 0.3125]
    """
    odd = np.arange(1, steps)
    return np.concatenate([[1.0], np.cumprod((2 * odd - 1) / (2 * odd))])


def inverse_coefficients(coefficients: np.ndarray) -> np.ndarray:
    """First column of the inverse of a lower-triangular Toeplitz matrix with first column ``coefficients``.

    >>> [float(c) for c in inverse_coefficients(square_root_coefficients(4))]
    [1.0, -0.5, -0.125, -0.0625]
    """
    n = len(coefficients)
    inverse = np.zeros(n)
    inverse[0] = 1 / coefficients[0]
    for t in range(1, n):
        inverse[t] = -np.dot(coefficients[1 : t + 1], inverse[t - 1 :: -1][:t]) / coefficients[0]
    return inverse


def toeplitz(coefficients: np.ndarray) -> np.ndarray:
    """The lower-triangular Toeplitz matrix with this first column, shape (n, n)."""
    index = np.subtract.outer(np.arange(len(coefficients)), np.arange(len(coefficients)))
    return np.where(index >= 0, coefficients[np.maximum(index, 0)], 0.0)


def largest_squared_error(coefficients: np.ndarray) -> float:
    """Largest squared row norm of B = A C^-1 for the prefix workload: variance of the last prefix per unit noise."""
    return float((np.cumsum(inverse_coefficients(coefficients)) ** 2).sum())


# ---- BLT -----------------------------------------------------------------------------------------------------------


def blt_coefficients(weights: np.ndarray, decays: np.ndarray, steps: int) -> np.ndarray:
    """c_0 = 1, c_t = sum_i omega_i theta_i^(t-1); ``weights`` omega, ``decays`` theta in [0, 1), shape (buffers,)."""
    powers = np.power.outer(np.asarray(decays, float), np.arange(steps - 1))
    return np.concatenate([[1.0], np.asarray(weights, float) @ powers])


def blt_single_sensitivity(weights: np.ndarray, decays: np.ndarray, steps: int) -> float:
    """Column norm of a BLT over ``steps``, one participation, in closed form."""
    product = np.multiply.outer(np.asarray(decays, float), np.asarray(decays, float))
    series = (1 - product ** (steps - 1)) / (1 - product)
    return math.sqrt(1 + float((np.multiply.outer(weights, weights) * series).sum()))


def blt_noise(noise: np.ndarray, weights: np.ndarray, decays: np.ndarray) -> np.ndarray:
    """C^-1 Z by buffers: x_t = z_t - sum_i omega_i s_i, then s_i <- theta_i s_i + x_t.

    Args:
        noise: Z, shape (steps, dimension).
    """
    buffers = np.zeros((len(decays), noise.shape[1]))
    made = np.empty_like(noise, dtype=float)
    for t, fresh in enumerate(noise):
        made[t] = fresh - np.asarray(weights) @ buffers
        buffers = np.asarray(decays)[:, None] * buffers + made[t]
    return made


# ---- sampling ------------------------------------------------------------------------------------------------------


def banded_sampled_event(noise_multiplier: float, probability: float, steps: int, bands: int) -> Event:
    """Banded noise with sampling: data split into ``bands`` groups, step t Poisson-samples from group t mod bands.

    Args:
        noise_multiplier: noise std over clipping norm, for a C with unit column norms.
        probability: within the group, batch / (N / bands). One band is DP-SGD exactly.
    """
    return Repeated(PoissonSampled(probability, GaussianEvent(noise_multiplier)), math.ceil(steps / bands))
