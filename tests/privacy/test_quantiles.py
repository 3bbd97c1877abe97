"""Private quantiles and feature preprocessing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.privacy.quantiles import (
    clipping_norm_of,
    histogram_quantiles,
    preprocess_features,
    quantile,
    quantiles,
)
from fedopt.rng import generator


def test_a_large_budget_finds_the_interval():
    values = np.linspace(1.0, 9.0, 101)
    for level in (0.1, 0.5, 0.9):
        found = quantile(values, level, 0.0, 10.0, 1e4, generator(0, "test", int(10 * level)))
        assert abs(found - (1.0 + 8.0 * level)) < 0.17


def test_the_exponential_mechanism_has_its_density():
    """Two data sets that differ in one record: every output has a likelihood ratio within e^epsilon."""
    epsilon, draws = 1.0, 40_000
    first, second = np.array([0.2, 0.5, 0.8]), np.array([0.2, 0.5, 0.1])
    cells = np.linspace(0, 1, 11)

    def histogram(values, seed):
        draw = generator(seed, "density")
        found = [quantile(values, 0.5, 0.0, 1.0, epsilon, draw) for _ in range(draws)]
        return np.histogram(found, cells)[0] / draws

    one, other = histogram(first, 0), histogram(second, 1)
    error = 4 * np.sqrt(one / draws)
    assert np.all(one <= math.exp(epsilon) * (other + error) + error)
    # By hand for the first one: intervals of lengths .2 .3 .3 .2 and utilities -1.5 -.5 -.5 -1.5.
    weights = np.array([0.2, 0.3, 0.3, 0.2]) * np.exp(-0.5 * np.array([1.5, 0.5, 0.5, 1.5]))
    weights /= weights.sum()
    assert abs(one[:2].sum() - weights[0]) < 0.02 and abs(one[2:5].sum() - weights[1]) < 0.02


def test_many_quantiles_are_ordered_and_in_range():
    values = generator(0, "values").normal(size=500)
    levels = [0.1, 0.25, 0.5, 0.75, 0.9]
    for epsilon in (0.1, 2.0, 1e4):
        for method in (quantiles, histogram_quantiles):
            found = method(values, levels, -4.0, 4.0, epsilon, generator(1, "draw"))
            assert np.all(np.diff(found) >= 0) and found.min() >= -4 and found.max() <= 4
    close = quantiles(values, levels, -4.0, 4.0, 1e4, generator(1, "draw"))
    assert np.abs(close - np.quantile(values, levels)).max() < 0.1
    close = histogram_quantiles(values, levels, -4.0, 4.0, 1e4, generator(1, "draw"), bins=400)
    assert np.abs(close - np.quantile(values, levels)).max() < 0.1


def test_order_of_values_does_not_matter():
    values = generator(0, "values").random(50)
    one = quantile(values, 0.3, 0.0, 1.0, 1.0, generator(2, "draw"))
    assert one == quantile(values[::-1], 0.3, 0.0, 1.0, 1.0, generator(2, "draw"))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"low < high and epsilon > 0, got 0.5, \[1.0, 1.0\], 1.0"):
        quantile([0.0], 0.5, 1.0, 1.0, 1.0, generator(0, "x"))
    with pytest.raises(ValueError, match="ascending"):
        quantiles([0.0], [0.5, 0.2], 0.0, 1.0, 1.0, generator(0, "x"))


def test_a_clipping_norm_from_norms():
    norms = np.linspace(0.0, 2.0, 1001)
    assert clipping_norm_of(norms, 0.5, 10.0, 100.0, generator(0, "norm")) == pytest.approx(1.0, abs=0.1)


def test_preprocessing_maps_models_back_exactly():
    features = generator(0, "features").normal(size=(40, 3)) + [50.0, 0.0, 0.0]
    made = preprocess_features(features, 100.0, 1e8, 1e8, generator(0, "noise"), outside=0.0)
    weights = generator(0, "weights").normal(size=(2, 4))
    kept, bias = made.original_model(weights)
    inside = np.linalg.norm(features - made.mean, axis=1) <= made.radius
    assert np.allclose((made.features @ weights.T)[inside], (features @ kept.T + bias)[inside])
    assert inside.mean() > 0.9
    assert np.linalg.norm(made.features, axis=1).max() <= made.clipping_norm() * (1 + 1e-9)


def test_preprocessing_is_translation_invariant_up_to_its_noise():
    features = generator(0, "features").normal(size=(200, 2))
    near = preprocess_features(features, 100.0, 1e10, 1e10, generator(0, "noise"))
    far = preprocess_features(features + 30.0, 100.0, 1e10, 1e10, generator(0, "noise"))
    assert np.allclose(near.features, far.features, atol=1e-3)


def test_the_noise_of_the_mean_has_its_scale():
    features, rho = np.zeros((10, 20_000)), 0.3
    made = preprocess_features(features, 1.0, rho, 1.0, generator(0, "noise"))
    wanted = 2 / 10 / math.sqrt(2 * rho)
    tolerance = 4 * math.sqrt(2 / 20_000)
    ratio = np.mean(made.mean**2) / wanted**2
    assert abs(ratio - 1) < tolerance
    assert abs(ratio * 9 / 4 - 1) > tolerance and abs(ratio * 4 / 9 - 1) > tolerance
