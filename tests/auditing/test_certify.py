"""Bounds from scores: valid, near the truth where they can be, zero without a difference."""

from __future__ import annotations

import numpy as np
import pytest

from fedopt.auditing import certify
from fedopt.privacy.gaussian_dp import gaussian_epsilon

DELTA = 1e-5


def scored(m: int, mu: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    present = draw.random(m) < 0.5
    return draw.standard_normal(m) + mu * present, present


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_one_run_bounds_stay_below_the_truth_and_use_the_curve(mu):
    truth = gaussian_epsilon(mu, DELTA)
    found = [certify.one_run(*scored(1000, mu, seed), truth, 0.05, DELTA, gaussian=True) for seed in range(40)]
    for which in (0, 1):
        values = [pair[which].epsilon for pair in found]
        assert sum(value > truth for value in values) <= 6  # 40 repeats at alpha 0.05: 6 or more have probability 0.014
        assert np.median(values) > 0.1 * truth
    assert np.median([pair[1].epsilon for pair in found]) > np.median([pair[0].epsilon for pair in found])


def test_no_difference_certifies_nothing_and_swapped_labels_neither():
    zero = [certify.one_run(*scored(400, 0.0, seed), 2.0, 0.05, DELTA, gaussian=False)[0].epsilon for seed in range(40)]
    assert sum(value > 0 for value in zero) <= 6
    scores, present = scored(400, 3.0, 0)
    assert certify.one_run(scores, ~present, 2.0, 0.05, DELTA, gaussian=False)[0].epsilon == 0.0


def test_the_curve_bound_is_for_gaussian_claims_only():
    bound = certify.one_run(*scored(100, 1.0, 0), 4.0, 0.05, DELTA, gaussian=False)[1]
    assert bound.epsilon is None and "not one Gaussian curve" in bound.detail


def test_guesses_are_fixed_by_the_claim_and_even():
    few, many = certify.guesses_for(1000, 0.5, 0.05, DELTA), certify.guesses_for(1000, 8.0, 0.05, DELTA)
    assert few % 2 == many % 2 == 0 and 2 <= few <= 1000
    assert certify.guesses_for(1000, float("inf"), 0.05, DELTA) <= 1000
    assert certify.guesses_for(4, 1.0, 0.05, DELTA) in (2, 4)


def test_repeats_bound_the_truth_and_pay_for_the_threshold():
    truth = gaussian_epsilon(1.0, DELTA)
    values = [certify.repeats(*scored(2000, 1.0, seed), 0.05, DELTA).epsilon for seed in range(30)]
    assert all(value is not None and value < truth for value in values)
    assert np.median(values) > 0.5
    assert certify.repeats(np.zeros(3), np.array([True, True, True]), 0.05, DELTA).epsilon is None


def test_the_estimate_is_called_one():
    draw = np.random.default_rng(0)
    found = certify.one_shot(draw.normal(1.0, 1.0, 4000), draw.normal(0.0, 1.0, 4000), DELTA)
    assert found.kind == "estimate" and found.alpha is None
    assert found.epsilon == pytest.approx(gaussian_epsilon(1.0, DELTA), rel=0.15)
    assert certify.one_shot(np.zeros(3), np.zeros(3), DELTA).epsilon is None
