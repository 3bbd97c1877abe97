"""Audit statistics: the card's check values, coverage, monotonicity, known mechanisms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.privacy.audit_statistics import (
    error_rates,
    one_run_epsilon,
    one_run_gaussian_epsilon,
    one_run_p_value,
    one_run_rejects,
    one_shot_estimate,
    proportion_upper,
    repeats_epsilon,
    repeats_gaussian_epsilon,
    two_gaussians_epsilon,
)
from fedopt.privacy.gaussian_dp import gaussian_epsilon


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "bound"),
    [
        (1000, 100, 90, 1e-5, 1.6261),
        (1000, 100, 90, 0.0, 1.6308),
        (1000, 100, 100, 1e-5, 3.4654),
        (5000, 1000, 700, 1e-5, 0.7306),
        (100, 100, 60, 0.0, 0.0519),
    ],
)
def test_one_run_check_values(canaries, guesses, correct, delta, bound):
    assert one_run_epsilon(canaries, guesses, correct, 0.05, delta) == pytest.approx(bound, abs=1e-3)


def test_repeats_check_values():
    rates = error_rates(200, 1000, 50, 1000, 0.05)
    first = math.log((1 - rates.false_negative - 1e-5) / rates.false_positive)
    second = math.log((1 - rates.false_positive - 1e-5) / rates.false_negative)
    assert first == pytest.approx(2.4710, abs=1e-3) and second == pytest.approx(1.4189, abs=1e-3)
    assert repeats_epsilon(200, 1000, 50, 1000, 0.05, 1e-5) == pytest.approx(2.4710, abs=1e-3)
    assert repeats_epsilon(50, 1000, 200, 1000, 0.05, 1e-5, one_sided=True) == pytest.approx(1.4189, abs=1e-3)
    assert repeats_epsilon(0, 1000, 0, 1000, 0.05, 0.0) == pytest.approx(5.6006, abs=1e-3)  # the ceiling
    assert repeats_epsilon(1000, 1000, 0, 1000, 0.05, 1e-5, one_sided=True) == 0.0  # labels swapped


def test_estimate_check_value():
    assert two_gaussians_epsilon((0.0, 0.01), (0.01, 0.01), 1e-5) == pytest.approx(4.3772, abs=1e-3)
    for mu in (0.5, 2.0):
        found = two_gaussians_epsilon((0.0, 1.0), (mu, 1.0), 1e-5)
        assert found == pytest.approx(gaussian_epsilon(mu, 1e-5), abs=1e-4)
    assert two_gaussians_epsilon((0.0, 1.0), (0.0, 1.0), 1e-5) == 0.0


@pytest.mark.parametrize(("first", "second"), [((0.0, 1.0), (0.5, 1.3)), ((0.0, 1.0), (0.5, 0.8))])
def test_two_gaussians_with_different_widths_by_quadrature(first, second):
    x = np.linspace(-30, 30, 600_001)
    delta = 1e-3
    epsilon = two_gaussians_epsilon(first, second, delta)

    def density(m, s):
        return np.exp(-(((x - m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))

    p, q = density(*first), density(*second)
    worst = max(np.trapezoid(np.maximum(a - math.exp(epsilon) * b, 0), x) for a, b in ((p, q), (q, p)))
    assert worst == pytest.approx(delta, rel=1e-3)


def test_upper_bound_covers():
    """Clopper-Pearson misses the true rate in at most alpha of the repetitions."""
    rng = np.random.default_rng(1)
    missed = np.mean([proportion_upper(int(k), 80, 0.05) < 0.1 for k in rng.binomial(80, 0.1, 4000)])
    assert missed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert missed > 0.005  # not vacuous
    assert proportion_upper(5, 80, 0.05, jeffreys=True) < proportion_upper(5, 80, 0.05)


def test_randomised_response_is_never_exceeded_and_reached():
    """epsilon 1: certified bounds stay below in 19 of 20 audits and tend to 1 with many trials."""
    rng, rate = np.random.default_rng(2), math.e / (1 + math.e)
    exceeded = [
        repeats_epsilon(int(rng.binomial(500, 1 - rate)), 500, int(rng.binomial(500, 1 - rate)), 500, 0.05, 0.0) > 1
        for _ in range(400)
    ]
    assert np.mean(exceeded) <= 0.05
    n = 4_000_000
    many = repeats_epsilon(round(n * (1 - rate)), n, round(n * (1 - rate)), n, 0.05, 0.0)
    assert 0.99 < many < 1.0
    correct = rng.binomial(1000, rate, 300)
    exceeded = [one_run_epsilon(1000, 1000, int(c), 0.05, 0.0) > 1 for c in correct]
    assert np.mean(exceeded) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert one_run_epsilon(10**6, 10**6, round(10**6 * rate), 0.05, 0.0) == pytest.approx(1.0, abs=0.01)


def test_no_difference_certifies_nothing():
    """Scores of one distribution for both sides: a bound above 0 in at most alpha of the audits."""
    rng, allowed = np.random.default_rng(6), 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    missed, alarms = rng.binomial(500, 0.5, 400), rng.binomial(500, 0.5, 400)
    counts = [(int(k), 500, int(f), 500) for k, f in zip(missed, alarms, strict=True)]
    assert np.mean([repeats_epsilon(*c, 0.05, 0.0) > 0 for c in counts]) <= allowed
    assert np.mean([repeats_gaussian_epsilon(*c, 0.05, 1e-5) > 0 for c in counts]) <= allowed
    correct = rng.binomial(200, 0.5, 400)
    refuted = [one_run_p_value(0.0, 1000, 200, int(c), 0.0) <= 0.05 for c in correct]
    assert 0 < np.mean(refuted) <= allowed


@pytest.mark.parametrize("z", [0.5, 1.0, 2.0])
def test_gaussian_audits_stay_below_the_truth(z):
    """Scores that differ by mu = 1/z: the bounds of repeats and of one run against the exact epsilon."""
    rng, truth, mu = np.random.default_rng(3), gaussian_epsilon(1 / z, 1e-5), 1 / z
    over = {"repeats": 0, "gaussian": 0, "run": 0, "f-dp": 0}
    best = 0.0
    for _ in range(100):
        present, absent = rng.normal(mu, 1, 1000), rng.normal(0, 1, 1000)
        counts = (int((present < 1.5).sum()), 1000, int((absent >= 1.5).sum()), 1000)
        over["repeats"] += repeats_epsilon(*counts, 0.05, 1e-5) > truth
        over["gaussian"] += repeats_gaussian_epsilon(*counts, 0.05, 1e-5) > truth
        member = rng.random(1000) < 0.5
        order = np.argsort(rng.normal(mu * member, 1))
        correct = int(member[order[-100:]].sum() + (~member[order[:100]]).sum())
        over["run"] += one_run_p_value(truth, 1000, 200, correct, 1e-5) <= 0.05
        over["f-dp"] += one_run_rejects(z, 1000, 200, correct, 0.05)
        best = max(best, repeats_gaussian_epsilon(*counts, 0.05, 1e-5))
    assert all(count <= 5 for count in over.values()), over
    assert 0.6 * truth < best


@pytest.mark.parametrize(
    ("canaries", "guesses", "z", "powerful"),
    [
        (100, 100, 1.0, False),
        (500, 200, 0.5, False),
        (500, 250, 1.0, True),
        (1000, 100, 1.0, True),
        (1000, 500, 2.0, True),
        (1000, 1000, 0.7, False),
    ],
)
def test_the_true_gaussian_is_hardly_ever_refuted(canaries, guesses, z, powerful):
    """4000 runs each at alpha 5 %: at most 0.2 %. Half of the noise is refuted where canaries and guesses suffice."""
    rng, half = np.random.default_rng(5), guesses // 2
    shares = {}
    for noise in (z, z / 2):
        member = rng.random((4000, canaries)) < 0.5
        ordered = np.take_along_axis(member, np.argsort(rng.normal(member, noise), axis=1), axis=1)
        correct, runs = np.unique((~ordered[:, :half]).sum(1) + ordered[:, -half:].sum(1), return_counts=True)
        refuted = [one_run_rejects(z, canaries, guesses, int(c), 0.05) for c in correct]
        assert refuted == sorted(refuted)  # monotone in the right guesses
        shares[noise] = float(runs @ refuted) / 4000
    assert shares[z] <= 2e-3
    assert (shares[z / 2] > 0.02) is powerful


def test_f_dp_is_tighter_for_gaussian_noise_and_below_the_truth():
    plain = one_run_epsilon(1000, 100, 90, 0.05, 1e-5)
    gaussian = one_run_gaussian_epsilon(1000, 100, 90, 0.05, 1e-5)
    assert gaussian > plain
    assert one_run_gaussian_epsilon(1000, 100, 50, 0.05, 1e-5) == 0.0


def test_monotone():
    values = [one_run_p_value(e, 1000, 100, 80, 1e-5) for e in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    by_delta = [one_run_epsilon(1000, 100, 90, 0.05, d) for d in (1e-3, 1e-5, 0.0)]
    by_alpha = [one_run_epsilon(1000, 100, 90, a, 1e-5) for a in (0.001, 0.05, 0.2)]
    by_thresholds = [repeats_epsilon(200, 1000, 50, 1000, 0.05, 1e-5, h) for h in (100, 10, 1)]
    repeated = [repeats_epsilon(200, 1000, 50, 1000, 0.05, d) for d in (1e-2, 1e-5, 0.0)]
    confident = [repeats_epsilon(200, 1000, 50, 1000, a, 1e-5) for a in (0.001, 0.05, 0.2)]
    curve = [one_run_gaussian_epsilon(1000, 100, 90, a, 1e-5) for a in (0.001, 0.05, 0.2)]
    assert all(v == sorted(set(v)) for v in (repeated, confident, curve)), (repeated, confident, curve)
    assert by_delta == sorted(by_delta) and by_alpha == sorted(by_alpha) and by_thresholds == sorted(by_thresholds)


@pytest.mark.parametrize("z", [0.5, 1.0, 2.0])
def test_one_shot_consistency_law(z):
    """v = sum of k canaries + z N(0, I): mu -> 1/sqrt(z^2 + k/d), within four standard errors."""
    d, k = 20_000, 400
    rng = np.random.default_rng(4)
    canaries = rng.normal(size=(k, d)).astype(np.float32)
    canaries /= np.linalg.norm(canaries, axis=1, keepdims=True)
    released = canaries.sum(axis=0) + z * rng.normal(size=d)
    cosines = canaries @ (released / np.linalg.norm(released))
    found = one_shot_estimate(cosines, 1e-5, dimension=d)
    mu, expected = found.mean * math.sqrt(d), 1 / math.sqrt(z * z + k / d)
    tolerance = 4 / math.sqrt(k)
    assert abs(mu - expected) < tolerance
    for wrong in (2 / 3, 3 / 2):  # two thirds or three halves of the noise would be noticed
        assert abs(mu - 1 / math.sqrt((wrong * z) ** 2 + k / d)) > tolerance or z == 2.0
    low, high = (gaussian_epsilon(max(expected + s, 0.01), 1e-5) for s in (-2 * tolerance, 2 * tolerance))
    assert low < found.epsilon < 1.5 * high


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="dimension >= 1000, got 10"):
        one_shot_estimate(np.zeros(3), 1e-5, dimension=10)
    with pytest.raises(ValueError, match="not both"):
        one_shot_estimate(np.zeros(3), 1e-5)
    with pytest.raises(ValueError, match="correct <= guesses <= canaries"):
        one_run_epsilon(10, 20, 5, 0.05, 0.0)
    with pytest.raises(ValueError, match="got 5 of 3"):
        proportion_upper(5, 3, 0.05)
