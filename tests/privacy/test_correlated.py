"""Correlated noise: enumeration of all participation patterns, materialised matrices, reference numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.correlated import (
    banded_sampled_event,
    banded_sensitivity,
    blt_coefficients,
    blt_noise,
    blt_single_sensitivity,
    honaker_variance,
    inverse_coefficients,
    largest_pattern_sum,
    largest_squared_error,
    participation_patterns,
    prefix_nodes,
    sensitivity_bound,
    single_sensitivity,
    square_root_coefficients,
    toeplitz,
    toeplitz_sensitivity,
    tree_height,
)
from fedopt.privacy.events import GaussianEvent, PoissonSampled, Repeated


def by_enumeration(encoder: np.ndarray, participations: int, separation: int, signs: bool = False) -> float:
    """Largest norm of C u over patterns; contributions aligned, or all signs."""
    best = 0.0
    for pattern in participation_patterns(len(encoder), participations, separation):
        chosen = encoder[:, list(pattern)]
        for code in range(2 ** len(pattern) if signs else 1):
            sign = np.array([1 - 2 * (code >> i & 1) for i in range(len(pattern))])
            best = max(best, float(np.linalg.norm(chosen @ sign)) if len(pattern) else 0.0)
    return best


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 1023, 1024])
def test_tree(steps):
    assert tree_height(steps) == math.ceil(math.log2(steps + 1))
    for step in {1, steps // 2 + 1, steps}:
        nodes = prefix_nodes(step)
        assert len(nodes) == step.bit_count() <= tree_height(steps)
        assert [n for first, last in nodes for n in range(first, last + 1)] == list(range(1, step + 1))


def test_honaker_variance_is_the_combination_of_subtree_and_node():
    """Own noise 1, children each v: the best mix of one node and their sum has variance 1/(1 + 1/(2v))."""
    for level in range(1, 8):
        below = honaker_variance(level - 1)
        assert honaker_variance(level) == pytest.approx(1 / (1 + 1 / (2 * below)))
    assert honaker_variance(0) == 1.0


def test_square_root_of_the_prefix_sums():
    column = square_root_coefficients(64)
    matrix = toeplitz(column)
    np.testing.assert_allclose(matrix @ matrix, np.tril(np.ones((64, 64))), atol=1e-12)
    inverse = inverse_coefficients(column)
    np.testing.assert_allclose(matrix @ toeplitz(inverse), np.eye(64), atol=1e-12)
    np.testing.assert_allclose(inverse[:4], [1, -1 / 2, -1 / 8, -1 / 16])
    np.testing.assert_allclose(inverse[1:], np.diff(column), atol=1e-14)


def test_square_root_reference_numbers():
    column = square_root_coefficients(1024)
    assert toeplitz_sensitivity(column, 1, 1) == pytest.approx(1.80902, abs=1e-5)
    assert largest_squared_error(column) == pytest.approx(3.27255, abs=1e-5)


@pytest.mark.parametrize(("participations", "separation"), [(1, 1), (2, 1), (2, 3), (3, 2), (4, 3)])
def test_toeplitz_sensitivity_by_enumeration(participations, separation):
    for column in (square_root_coefficients(10), blt_coefficients(np.array([0.4, 0.2]), np.array([0.9, 0.3]), 10)):
        exact = by_enumeration(toeplitz(column), participations, separation)
        assert toeplitz_sensitivity(column, participations, separation) == pytest.approx(exact)


@pytest.mark.parametrize(("participations", "separation"), [(1, 1), (2, 3), (3, 2), (3, 4)])
def test_general_bound_holds_for_any_signs(participations, separation):
    rng = np.random.default_rng(0)
    for _ in range(5):
        encoder = np.tril(rng.normal(size=(8, 8)))
        exact = by_enumeration(encoder, participations, separation, signs=True)
        bound = sensitivity_bound(encoder, participations, separation)
        assert exact <= bound * (1 + 1e-12)
        assert single_sensitivity(encoder) <= exact * (1 + 1e-12)


def test_largest_entry_alone_would_underestimate():
    """All-ones C: the bound is exact and k times the largest entry, not the entry."""
    encoder = np.tril(np.ones((6, 6)))
    exact = by_enumeration(encoder, 3, 1)
    assert sensitivity_bound(encoder, 3, 1) == pytest.approx(exact)
    assert math.sqrt(np.abs(encoder.T @ encoder).max()) < exact


def test_banded_sensitivity():
    rng = np.random.default_rng(1)
    encoder = np.tril(rng.uniform(0, 1, (9, 9))) * (np.subtract.outer(np.arange(9), np.arange(9)) < 3)
    for participations in (1, 2, 3):
        exact = by_enumeration(encoder, participations, 3, signs=True)
        assert banded_sensitivity(encoder, participations, 3) == pytest.approx(exact)
    normalised = encoder / np.linalg.norm(encoder, axis=0)
    assert banded_sensitivity(normalised, 3, 3) == pytest.approx(math.sqrt(3))
    with pytest.raises(ValueError, match="at most 2 bands, got 3"):
        banded_sensitivity(encoder, 2, 2)


def test_pattern_sum_dynamic_programme():
    rng = np.random.default_rng(2)
    values = rng.uniform(0, 1, 9)
    for participations, separation in ((1, 1), (2, 2), (3, 4), (9, 1)):
        brute = max(values[list(p)].sum() for p in participation_patterns(9, participations, separation))
        assert largest_pattern_sum(values, participations, separation) == pytest.approx(brute)


def test_blt_matches_its_materialised_matrix():
    weights, decays, steps = np.array([0.3, 0.15]), np.array([0.95, 0.4]), 12
    column = blt_coefficients(weights, decays, steps)
    assert blt_single_sensitivity(weights, decays, steps) == pytest.approx(float(np.linalg.norm(column)))
    noise = np.random.default_rng(3).normal(size=(steps, 5))
    np.testing.assert_allclose(toeplitz(column) @ blt_noise(noise, weights, decays), noise, atol=1e-12)


def test_increasing_coefficients_are_refused():
    with pytest.raises(ValueError, match="non-increasing coefficients; use sensitivity_bound"):
        toeplitz_sensitivity(np.array([1.0, 1.2]), 1, 1)


def test_one_band_is_dp_sgd():
    dp_sgd = Repeated(PoissonSampled(0.1, GaussianEvent(1.0)), 30)
    assert banded_sampled_event(1.0, 0.1, 30, 1) == dp_sgd
    banded = banded_sampled_event(1.0, 0.4, 30, 4)
    assert banded == Repeated(PoissonSampled(0.4, GaussianEvent(1.0)), 8)
    assert Pld().epsilon(banded, 1e-5, "add_or_remove_one") > 0
