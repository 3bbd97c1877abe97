"""The exact Gaussian curve against published and checked values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from fedopt.privacy.gaussian_dp import (
    analytic_gaussian,
    gaussian_advantage,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_epsilons,
    gaussian_mu_of,
)


@pytest.mark.parametrize(
    ("epsilon", "delta", "noise"),
    [(1.0, 1e-5, 3.73063), (0.5, 1e-6, 8.05762), (3.0, 1e-5, 1.39059), (5.0, 1e-5, 0.89187)],
)
def test_analytic_gaussian_table(epsilon, delta, noise):
    assert analytic_gaussian(epsilon, delta) == pytest.approx(noise, abs=1e-5)
    assert analytic_gaussian(epsilon, delta) < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def test_diff2_golden_mu():
    assert gaussian_mu_of(3.0, 1e-5) == pytest.approx(0.719117, abs=1e-6)
    assert gaussian_mu_of(5.0, 1e-5) == pytest.approx(1.121242, abs=1e-6)


@pytest.mark.parametrize(("mu", "epsilon"), [(0.5, 1.9931), (1.0, 4.3772), (2.0, 9.9973), (5.0, 33.1037)])
def test_epsilon_of_mu(mu, epsilon):
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(epsilon, abs=1e-4)


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_epsilon_inverts_delta(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_delta(epsilon, mu) <= delta * (1 + 1e-9)
    if epsilon > 0:
        assert gaussian_mu_of(epsilon, delta) == pytest.approx(mu, rel=1e-9)
        assert gaussian_epsilons(np.array([mu]), delta)[0] == pytest.approx(epsilon, rel=1e-8)


def test_delta_agrees_with_the_textbook_formula_and_duality():
    epsilon = np.linspace(-3, 3, 13)
    plain = norm.cdf(0.35 - epsilon / 0.7) - np.exp(epsilon) * norm.cdf(-0.35 - epsilon / 0.7)
    np.testing.assert_allclose(gaussian_delta(epsilon, 0.7), plain, rtol=1e-10)
    assert gaussian_delta(0.5, 0.0) == 0 and gaussian_epsilon(0.0, 1e-5) == 0
    assert gaussian_advantage(1.0) == pytest.approx(2 * norm.cdf(0.5) - 1)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1\), got 0"):
        gaussian_epsilon(1.0, 0.0)
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
