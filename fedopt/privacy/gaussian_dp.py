"""Exact privacy of Gaussian noise (mu-GDP): delta, epsilon, mu and noise of the analytic Gaussian mechanism.

One or many full-participation Gaussian releases are exactly one Gaussian release with mu = sqrt(sum_i mu_i^2), where
mu_i = sensitivity / noise std. Everything here is the exact curve, never the asymptotic CLT approximation of
subsampled Gaussians (which is not an upper bound).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfcx, ndtr


def gaussian_delta(epsilon: float | np.ndarray, mu: float | np.ndarray) -> np.ndarray:
    """delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu), exact.

    Args:
        epsilon: any real, any shape.
        mu: sensitivity over noise std, >= 0; broadcasts against ``epsilon``.
    References:
        Balle and Wang 2018, Improving the Gaussian Mechanism, Theorem 8, arXiv:1805.06530.

    >>> round(float(gaussian_delta(4.3772, 1.0)) * 1e5, 3)
    1.0
    """
    epsilon, mu = np.broadcast_arrays(np.asarray(epsilon, float), np.asarray(mu, float))
    size = np.abs(epsilon)  # delta(-e) = 1 - exp(-e) + exp(-e) delta(e), since the pair is symmetric
    with np.errstate(divide="ignore", invalid="ignore", under="ignore", over="ignore"):
        near, far = mu / 2 - size / mu, mu / 2 + size / mu
        density = np.exp(-near * near / 2) / 2
        tails = density * (erfcx(np.maximum(-near, 0.0) / math.sqrt(2)) - erfcx(far / math.sqrt(2)))
        value = np.where(near > 0, ndtr(near) - density * erfcx(far / math.sqrt(2)), tails)
    value = np.where(mu > 0, value, 0.0)
    return np.where(epsilon < 0, -np.expm1(-size) + np.exp(-size) * value, value)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon >= 0 of a mu-GDP release at ``delta`` in (0, 1).

    >>> [round(gaussian_epsilon(mu, 1e-5), 4) for mu in (0.5, 1.0, 2.0)]
    [1.9931, 4.3772, 9.9973]
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    if math.isinf(mu):
        return math.inf
    if mu <= 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    upper = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1e-9
    root = brentq(lambda e: math.log(max(float(gaussian_delta(e, mu)), 1e-320) / delta), 0.0, upper, xtol=1e-13)
    return float(root)


def gaussian_epsilons(mu: np.ndarray, delta: float) -> np.ndarray:
    """``gaussian_epsilon`` of many mu at once (shape (n,)), by bisection to 1e-10 relative, rounded up."""
    mu = np.asarray(mu, float)
    low, high = np.zeros(mu.shape), mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    for _ in range(60):
        middle = (low + high) / 2
        fits = gaussian_delta(middle, mu) <= delta
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
        if np.all(high - low <= 1e-10 * high + 1e-15):
            break
    return np.where(gaussian_delta(np.zeros(mu.shape), mu) <= delta, 0.0, high)


def gaussian_mu_of(epsilon: float, delta: float) -> float:
    """Largest mu whose Gaussian release is (epsilon, delta)-DP.

    >>> round(gaussian_mu_of(3.0, 1e-5), 6), round(gaussian_mu_of(5.0, 1e-5), 6)
    (0.719117, 1.121242)
    """
    if not (epsilon >= 0 and 0 < delta < 1):
        raise ValueError(f"need epsilon >= 0 and delta in (0, 1), got epsilon {epsilon}, delta {delta}")
    upper = 1.0
    while gaussian_delta(epsilon, upper) < delta:
        upper *= 2
    return float(brentq(lambda mu: float(gaussian_delta(epsilon, mu)) - delta, 1e-12, upper, xtol=1e-14, rtol=1e-14))


def analytic_gaussian(epsilon: float, delta: float) -> float:
    """Noise std over L2 sensitivity of the analytic Gaussian mechanism, for one release.

    >>> round(analytic_gaussian(1.0, 1e-5), 5), round(analytic_gaussian(0.5, 1e-6), 5)
    (3.73063, 8.05762)
    """
    return 1.0 / gaussian_mu_of(epsilon, delta)


def gaussian_advantage(mu: float) -> float:
    """Largest true-positive minus false-positive rate against a mu-GDP release: 2 Phi(mu/2) - 1."""
    return float(gaussian_delta(0.0, mu))
