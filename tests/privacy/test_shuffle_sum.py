"""Calibration of the shuffled sums: certified values of the card, brute force, unbiasedness and variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.accountants.rdp import Rdp
from fedopt.privacy.events import Repeated, ShuffledSumEvent
from fedopt.privacy.releases import AccountingError
from fedopt.privacy.shuffle import binomial_shift_delta
from fedopt.privacy.shuffle_sum import (
    scalar_sum_parameters,
    vector_log_moment,
    vector_sum_epsilon,
    vector_sum_parameters,
)


@pytest.mark.parametrize(("trials", "epsilon"), [(13_708, 1.0960), (1_095, 4.5246)])
def test_certified_vector_sum(trials, epsilon):
    """The card's values; a finer search of the order may only be a little smaller."""
    found = vector_sum_epsilon(trials, 0.25, 8, 16, 1e-6)
    assert 0.999 * epsilon <= found <= epsilon + 1e-4


def test_certified_bound_is_above_exact_product_divergences():
    """Exact product of coordinates on several shift patterns against the claimed (epsilon, delta)."""
    trials, bias, levels, dimension, delta = 300, 0.25, 2, 4, 1e-4
    epsilon = vector_sum_epsilon(trials, bias, levels, dimension, delta)
    value = np.arange(-2, trials + 3)
    mass = binom.pmf(value, trials, bias)
    for pattern in ([2, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [2, -1, 0, 0], [-2, 0, 0, 1]):
        assert np.linalg.norm(pattern) <= levels + math.sqrt(dimension)
        atoms = {0: (1.0, 0.0)}  # convolve losses on a fine grid
        losses, weights = np.zeros(1), np.ones(1)
        for shift in pattern:
            moved = binom.pmf(value - shift, trials, bias)
            kept = (mass > 1e-14) & (moved > 0)
            own = np.log(mass[kept] / moved[kept])
            losses = np.add.outer(losses, own).ravel()
            weights = np.multiply.outer(weights, mass[kept]).ravel()
            cells = np.ceil(losses * 2e3).astype(int)
            low = cells.min()
            weights = np.bincount(cells - low, weights=weights)
            losses = (np.arange(len(weights)) + low) / 2e3
        assert atoms
        assert float(np.dot(weights, np.maximum(0, -np.expm1(epsilon - losses)))) <= delta


def test_log_moment_by_hand():
    trials, levels, order = 200, 3, 2.0
    value = np.arange(0, trials + 1)
    low, high = int(binom.ppf(5e-4, trials, 0.5)), int(binom.isf(5e-4, trials, 0.5))
    worst = 0.0
    for shift in (-3, -2, -1, 1, 2, 3):
        y = value[low : high + 1]
        ratio = binom.pmf(y, trials, 0.5) / binom.pmf(y - shift, trials, 0.5)
        worst = max(worst, math.log((binom.pmf(y, trials, 0.5) * ratio**order).sum()) / shift**2)
    found = vector_log_moment(trials, 0.5, levels, 1, order, 1e-3)
    assert found == pytest.approx(worst * levels**2, rel=1e-2)
    assert vector_log_moment(10, 0.5, 8, 1, order, 1e-3) == math.inf  # less noise than shift: nothing is certified


def test_composition_of_vector_sums():
    event = ShuffledSumEvent(20, 4, 4, 400, 0.5)
    one, ten = (Pld().epsilon(Repeated(event, n), 1e-6, "replace_one") for n in (1, 10))
    assert one < ten < 10 * one
    assert ten == vector_sum_epsilon(8000, 0.5, 4, 4, 1e-6, 10)
    assert Rdp().epsilon(Repeated(event, 10), 1e-6, "replace_one") >= ten


def test_fewer_survivors_cost_more():
    full, half = (Pld().epsilon(ShuffledSumEvent(n, 4, 4, 400, 0.5), 1e-6, "replace_one") for n in (20, 10))
    assert half > 1.3 * full


def test_scalar_calibration_is_the_smallest():
    found = scalar_sum_parameters(100, 10, 1.0, 1e-6)
    assert found.messages_per_client == 10 + found.bits
    assert binomial_shift_delta(1.0, 100 * found.bits, 0.5, 10) <= 1e-6
    assert binomial_shift_delta(1.0, 100 * (found.bits - 1), 0.5, 10) > 1e-6


def test_vector_calibration_meets_its_target_without_waste():
    found = vector_sum_parameters(25, 4, 2.0, 1e-6, levels=6)
    assert found.messages_per_client == 4 * (6 + found.bits)
    spent = vector_sum_epsilon(25 * found.bits, found.bias, 6, 4, 1e-6)
    assert 1.9 <= spent <= 2.0
    composed = vector_sum_parameters(25, 4, 2.0, 1e-6, levels=6, rounds=5)
    assert composed.bits > 3 * found.bits


def test_noise_approaches_the_central_gaussian():
    """With many levels the noise per coordinate nears the analytic Gaussian at sensitivity 2 Delta2 (in units of g)."""
    from fedopt.privacy.gaussian_dp import analytic_gaussian

    levels = 32
    found = scalar_sum_parameters(1, levels, 1.0, 1e-6)
    std = math.sqrt(found.bits * 0.25) / levels
    assert std == pytest.approx(analytic_gaussian(1.0, 1e-6), rel=1e-3) and std >= analytic_gaussian(1.0, 1e-6)


def test_impossible_targets_are_refused():
    with pytest.raises(AccountingError, match="need epsilon > 0"):
        vector_sum_parameters(10, 2, 0.0, 1e-6)
