"""Heterogeneity metrics against the closed forms of the literature."""

import numpy as np
import pytest

from fedopt import heterogeneity as het
from fedopt.data.base import ClientIndex


def _uniform(count):
    return np.full(count, 1.0 / count)


def test_counts_by_hand():
    clients = ClientIndex.from_lists([np.array([0, 1, 1]), np.array([], int), np.array([2])])
    counts = het.class_counts(clients, np.array([0, 2, 1]))
    assert counts.tolist() == [[1, 0, 2], [0, 0, 0], [0, 1, 0]]
    distributions, weights = het.label_distributions(counts)
    assert weights.tolist() == [0.75, 0.25] and len(distributions) == 2


def test_identical_clients_have_zero_distance():
    p, w = np.tile([0.2, 0.3, 0.5], (4, 1)), _uniform(4)
    for metric in (het.total_variation, het.earth_mover, het.hellinger, het.kl_to_global, het.chi_square):
        assert metric(p, w) == pytest.approx(np.zeros(4), abs=1e-7)
    assert het.jensen_shannon(p, w) == pytest.approx(0.0, abs=1e-12)


def test_one_class_per_client_reaches_the_limits():
    classes = 10
    p, w = np.eye(classes), _uniform(classes)
    assert het.total_variation(p, w) == pytest.approx(1 - 1 / classes)
    assert het.earth_mover(p, w) == pytest.approx(2 - 2 / classes)
    assert het.jensen_shannon(p, w) == pytest.approx(np.log(classes))
    assert het.effective_classes(p) == pytest.approx(1.0)
    assert het.kl_to_global(p, w) == pytest.approx(np.log(classes))
    assert het.chi_square(p, w) == pytest.approx(classes - 1)
    assert het.hellinger(p, w) == pytest.approx(np.sqrt(1 - 1 / np.sqrt(classes)))


def test_inequalities_between_distances():
    rng = np.random.default_rng(0)
    p, w = rng.dirichlet(np.full(8, 0.3), 50), rng.dirichlet(np.ones(50))
    tv, h, kl = het.total_variation(p, w), het.hellinger(p, w), het.kl_to_global(p, w)
    assert (tv**2 <= kl / 2 + 1e-12).all()
    assert (h**2 <= tv + 1e-12).all() and (tv <= np.sqrt(2) * h + 1e-12).all()
    assert het.jensen_shannon(p, w) == pytest.approx(w @ kl)


def test_splitting_a_client_in_halves_changes_no_weighted_metric():
    rng = np.random.default_rng(1)
    p, g, w = rng.dirichlet(np.ones(5), 3), rng.normal(size=(3, 4)), np.array([0.5, 0.3, 0.2])
    split, weights = [0, 0, 1, 2], np.array([0.25, 0.25, 0.3, 0.2])
    assert het.jensen_shannon(p[split], weights) == pytest.approx(het.jensen_shannon(p, w))
    assert weights @ het.total_variation(p[split], weights) == pytest.approx(w @ het.total_variation(p, w))
    assert het.gradient_dissimilarity(g[split], weights) == pytest.approx(het.gradient_dissimilarity(g, w))


def test_dirichlet_concentration_matches_its_closed_form():
    classes, alpha = 10, 0.3
    p = np.random.default_rng(2).dirichlet(np.full(classes, alpha), 4000)
    squares = ((p - 1 / classes) ** 2).sum(axis=1)
    expected, error = (1 - 1 / classes) / (alpha * classes + 1), squares.std() / np.sqrt(len(p))
    assert abs(squares.mean() - expected) < 4 * error
    assert abs(squares.mean() - 1.5 * expected) > 4 * error and abs(squares.mean() - expected / 1.5) > 4 * error


def test_size_skew():
    assert het.gini(np.array([3, 3, 3])) == 0.0
    assert het.gini(np.array([1, 2, 3])) == pytest.approx(2 / 9)
    assert het.gini(np.array([0, 0, 0, 0])) == 0.0
    assert het.coefficient_of_variation(np.array([1, 3])) == pytest.approx(0.5)


def test_gradient_metrics_by_hand():
    orthogonal, w = np.eye(2), _uniform(2)
    assert het.gradient_dissimilarity(orthogonal, w) == pytest.approx(0.5)
    assert het.gradient_diversity(orthogonal) == pytest.approx(1.0)
    assert het.local_dissimilarity(orthogonal, w) ** 2 / 2 == pytest.approx(het.gradient_diversity(orthogonal))
    assert het.gradient_diversity(np.ones((4, 3))) == pytest.approx(0.25)
    assert het.local_dissimilarity(np.array([[1.0], [-1.0]]), w) == float("inf")
    assert het.local_dissimilarity(np.zeros((2, 1)), w) == 1.0
    simplex = np.eye(3) - 1 / 3
    assert het.pairwise_cosine(simplex) == pytest.approx(-0.5) and het.conflict_rate(simplex) == 1.0
    assert het.pairwise_cosine(np.ones((3, 2))) == pytest.approx(1.0) and het.conflict_rate(np.ones((3, 2))) == 0.0


def test_gradient_dissimilarity_is_the_sum_over_pairs():
    rng = np.random.default_rng(3)
    g, p = rng.normal(size=(5, 3)), rng.dirichlet(np.ones(5))
    pairs = sum(p[i] * p[j] * ((g[i] - g[j]) ** 2).sum() for i in range(5) for j in range(i))
    assert het.gradient_dissimilarity(g, p) == pytest.approx(pairs)


def test_summary_and_refusals():
    clients = ClientIndex.from_lists([np.array([0, 1]), np.array([2, 3])])
    summary = het.split_summary(clients, np.array([0, 0, 1, 1]))
    assert summary["total_variation"] == pytest.approx(0.5) and summary["size_gini"] == 0.0
    assert summary["jensen_shannon"] == pytest.approx(np.log(2)) and summary["effective_classes"] == pytest.approx(1)
    with pytest.raises(ValueError, match="no client holds an example"):
        het.label_distributions(np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="at least two clients"):
        het.pairwise_cosine(np.ones((1, 2)))
