"""Private quantiles and feature preprocessing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.privacy import quantiles as module
from fedopt.privacy.accountants._renyi import ORDERS, renyi
from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.events import PureEvent
from fedopt.privacy.gaussian_dp import gaussian_epsilon
from fedopt.privacy.quantiles import (
    clipping_norm_of,
    histogram_quantiles,
    preprocess_features,
    preprocessing_events,
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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize(("neighbours", "branches"), [("add_or_remove_one", 1), ("replace_one", 2)])
def test_the_shares_of_recursive_quantiles_add_up_to_the_budget(count, neighbours, branches, monkeypatch):
    """One record is in one call per depth; a replaced one may leave one branch and enter another."""
    asked, one = [], module.quantile

    def spied(values, level, low, high, epsilon, draw):
        asked.append(epsilon)
        return one(values, level, low, high, epsilon, draw)

    monkeypatch.setattr(module, "quantile", spied)
    levels = (np.arange(count) + 1) / (count + 1)
    quantiles(np.linspace(0, 1, 50), levels, 0.0, 1.0, 0.7, generator(0, "draw"), neighbours)
    depth = math.ceil(math.log2(count + 1))
    assert len(asked) == count and set(asked) == {asked[0]}
    assert branches * depth * asked[0] == pytest.approx(0.7)


@pytest.mark.parametrize(("neighbours", "scale"), [("add_or_remove_one", 2.0), ("replace_one", 4.0)])
def test_the_noise_of_a_histogram_has_its_scale(neighbours, scale):
    """Laplace of scale 1 / epsilon or 2 / epsilon per bin, seen through a draw that is written down."""

    class Written:
        def laplace(self, location, spread, size):
            self.spread = spread
            return np.zeros(size)

    draw = Written()
    histogram_quantiles([0.5], [0.5], 0.0, 1.0, 0.5, draw, 4, neighbours)
    assert draw.spread == pytest.approx(scale)


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


def test_the_cost_of_preprocessing_is_the_sum_of_its_budgets():
    """In zCDP: mu^2 / 2 of the mean and epsilon^2 / 8 of the radius; composed with what a run spends."""
    rho_mean, rho_radius = 0.03, 0.01
    mean, radius = preprocessing_events(rho_mean, rho_radius)
    np.testing.assert_allclose(renyi(mean, "replace_one", 0.0), rho_mean * ORDERS)
    assert radius == PureEvent(math.sqrt(8 * rho_radius)) and radius.epsilon**2 / 8 == pytest.approx(rho_radius)
    spent = Pld().epsilon([mean, radius], 1e-5, "replace_one")
    alone = gaussian_epsilon(math.sqrt(2 * rho_mean), 1e-5)
    assert alone < spent <= alone + radius.epsilon


def test_one_record_moves_the_preprocessing_by_what_is_paid_for():
    """Replacing a record moves the clipped mean by at most 2 R0 / n; the noise of the mean is made for that."""
    features, bound = generator(0, "features").normal(size=(20, 3)) * 5, 1.5
    other = features.copy()
    other[7] = -100.0 * features[7]

    def mean_of(rows):
        return preprocess_features(rows, bound, 1e12, 1.0, generator(0, "noise")).mean

    moved = np.linalg.norm(mean_of(features) - mean_of(other))
    assert 0 < moved <= 2 * bound / 20 * (1 + 1e-9)


def test_preprocessed_features_bound_the_gradient_of_a_linear_model():
    """Equals DP-SGD with C = Lip sqrt(2) tau: no gradient of a 1-Lipschitz loss in the linear score is longer."""
    features = generator(0, "features").normal(size=(300, 4)) + [20.0, 0.0, 0.0, 0.0]
    made = preprocess_features(features, 50.0, 0.5, 0.5, generator(0, "noise"))
    weights, labels = generator(1, "weights").normal(size=5), np.sign(features[:, 1])
    slope = labels / (1 + np.exp(labels * (made.features @ weights)))  # logistic loss: |slope| < 1
    norms = np.linalg.norm(slope[:, None] * made.features, axis=1)
    assert norms.max() <= made.clipping_norm() == pytest.approx(math.sqrt(2) * made.radius)
    steepest = np.linalg.norm(made.features, axis=1).max()  # an absolute loss has slope 1
    assert 0.9 * made.clipping_norm() < steepest <= made.clipping_norm() * (1 + 1e-12)
