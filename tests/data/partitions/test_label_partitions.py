"""Partitions that skew labels: dirichlet, inner_dirichlet, dirichlet_with_replacement, pathological, shard, ladder."""

import time

import numpy as np
import pytest
from pydantic import ValidationError

from fedopt.data.partitions.class_ladder import ClassLadder
from fedopt.data.partitions.dirichlet import Dirichlet
from fedopt.data.partitions.dirichlet_with_replacement import DirichletWithReplacement
from fedopt.data.partitions.inner_dirichlet import InnerDirichlet
from fedopt.data.partitions.pathological import Pathological
from fedopt.data.partitions.shard import Shard
from fedopt.heterogeneity import class_counts, label_distributions, split_summary

TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))


def _classes(index, targets=TARGETS):
    return [sorted(set(targets[index.of(i)].tolist())) for i in range(index.num_clients)]


def _accepts(values, expected):
    """Whether the mean is within four standard errors of what is expected."""
    return abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))


def test_dirichlet_skew_falls_with_alpha():
    skews = [split_summary(Dirichlet(alpha=a, min_partition_size=0).split(TARGETS, None, 12, 0), TARGETS) for a in
             (0.05, 0.5, 5.0, 500.0)]  # fmt: skip
    distances = [s["total_variation"] for s in skews]
    assert distances == sorted(distances, reverse=True) and distances[0] > 0.5 and distances[-1] < 0.1


def test_dirichlet_shares_of_a_class_have_the_dirichlet_variance():
    targets, clients, alpha = np.zeros(20_000, dtype=np.int64), 10, 0.5
    shares = [Dirichlet(alpha=alpha, min_partition_size=0).split(targets, None, clients, s).sizes() for s in range(200)]
    squares = (np.array(shares) / len(targets)) ** 2
    second_moment = (alpha + 1) / (clients * (clients * alpha + 1))
    values = squares.mean(axis=1)
    assert _accepts(values, second_moment)
    assert not _accepts(values, 1.5 * second_moment) and not _accepts(values, second_moment / 1.5)


def test_dirichlet_minimum_size_and_self_balancing():
    made = Dirichlet(alpha=0.5, min_partition_size=10).split(TARGETS, None, 10, 0)
    assert made.sizes().min() >= 10
    plain = np.mean([Dirichlet(alpha=0.1, min_partition_size=0).split(TARGETS, None, 10, s).sizes().max()
                     for s in range(10)])  # fmt: skip
    balanced = np.mean([Dirichlet(alpha=0.1, min_partition_size=0, self_balancing=True)
                        .split(TARGETS, None, 10, s).sizes().max() for s in range(10)])  # fmt: skip
    assert balanced < plain
    with pytest.raises(ValueError, match="raise alpha, use fewer clients, lower min_partition_size"):
        Dirichlet(alpha=0.01, min_partition_size=30).split(TARGETS, None, 15, 0)


def test_dirichlet_takes_the_first_draw_whose_smallest_client_has_the_minimum():
    first = Dirichlet(min_partition_size=0).split(TARGETS, None, 10, 0)
    smallest = int(first.sizes().min())
    assert smallest > 0
    exactly = Dirichlet(min_partition_size=smallest).split(TARGETS, None, 10, 0)
    assert np.array_equal(exactly.indices, first.indices)
    other = Dirichlet(min_partition_size=smallest + 1).split(TARGETS, None, 10, 0)
    assert not np.array_equal(other.indices, first.indices) and other.sizes().min() > smallest


def test_self_balancing_closes_clients_above_the_mean_and_not_those_at_it():
    """Two clients, three classes of four: the mean is six. A client with more gets nothing of the last class."""
    targets, at_the_mean, above = np.repeat(np.arange(3), 4), [], []
    for seed in range(300):
        made = Dirichlet(alpha=1.0, min_partition_size=0, self_balancing=True).split(targets, None, 2, seed)
        counts = class_counts(made, targets, 3)
        for before, last in zip(counts[:, :2].sum(axis=1), counts[:, 2], strict=True):
            (above if before > 6 else at_the_mean if before == 6 else []).append(last)
    assert len(above) > 20 and not any(above)
    assert len(at_the_mean) > 20 and any(at_the_mean)


def test_inner_dirichlet_lets_clients_choose_in_random_order():
    """All want half of a rare class that four of ten clients use up: no id may always come before the others."""
    targets, rare = np.repeat([0, 1], [20, 80]), []
    for seed in range(200):
        made = InnerDirichlet(alpha=100.0).split(targets, None, 10, seed)
        rare.append(class_counts(made, targets, 2)[[0, -1], 0])
    first_less_last = np.subtract(*np.transpose(rare))
    assert _accepts(first_less_last, 0.0) and not _accepts(first_less_last + 5, 0.0)
    assert _accepts(np.concatenate(rare), 2.0)


def test_inner_dirichlet_keeps_the_sizes_and_skews_labels():
    made = InnerDirichlet(alpha=0.05, partition_sizes=(5, 100, 20)).split(TARGETS, None, 3, 0)
    assert made.sizes().tolist() == [5, 100, 20] and len(np.unique(made.indices)) == 125
    skewed = split_summary(InnerDirichlet(alpha=0.05).split(TARGETS, None, 6, 0), TARGETS)
    even = split_summary(InnerDirichlet(alpha=500.0).split(TARGETS, None, 6, 0), TARGETS)
    assert skewed["total_variation"] > 0.4 > even["total_variation"] and skewed["size_gini"] == 0
    with pytest.raises(ValueError, match="needs 4 non-negative entries"):
        InnerDirichlet(partition_sizes=(5, 5)).split(TARGETS, None, 4, 0)


def test_with_replacement_alpha_zero_gives_client_i_class_i_mod_c():
    made = DirichletWithReplacement(alpha=0).split(TARGETS, None, 25, 0)
    assert _classes(made) == [[i % 10] for i in range(25)] and set(made.sizes()) == {600 // 25}


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_with_replacement_concentration_matches_the_closed_form(alpha):
    size, classes = 50, 10
    made = DirichletWithReplacement(alpha=alpha, examples_per_client=size).split(TARGETS, None, 4000, 0)
    distributions, _ = label_distributions(class_counts(made, TARGETS))
    squares = (distributions**2).sum(axis=1)
    expected = 1 / size + (1 - 1 / size) * (alpha + 1) / (alpha * classes + 1)
    assert _accepts(squares, expected)
    assert not _accepts(squares, 1.5 * expected) and not _accepts(squares, expected / 1.5)
    assert abs(distributions.mean(axis=0) - 0.1).max() < 0.03


def test_with_replacement_uses_all_examples_of_a_class_and_tiny_alpha_does_not_underflow():
    made = DirichletWithReplacement(alpha=1e-4, examples_per_client=100).split(TARGETS, None, 500, 0)
    assert len(np.unique(made.indices)) == 600
    assert np.mean([len(c) for c in _classes(made)]) < 1.1


def test_with_replacement_scales_to_many_clients():
    start = time.process_time()
    made = DirichletWithReplacement(alpha=0.1, examples_per_client=3).split(TARGETS, None, 200_000, 0)
    assert made.num_clients == 200_000 and len(made.indices) == 600_000
    assert time.process_time() - start < 10


def test_pathological_modes():
    fixed = Pathological(num_classes_per_partition=2, class_assignment_mode="deterministic")
    assert _classes(fixed.split(TARGETS, None, 12, 0)) == [sorted({i % 10, (i + 1) % 10}) for i in range(12)]
    first = _classes(Pathological(class_assignment_mode="first-deterministic").split(TARGETS, None, 12, 0))
    assert all(i % 10 in held and len(held) == 2 for i, held in enumerate(first))
    drawn = _classes(Pathological(num_classes_per_partition=3).split(TARGETS, None, 12, 0))
    assert all(len(held) == 3 for held in drawn)
    with pytest.raises(ValueError, match="the data have 10 classes: use at most 10"):
        Pathological(num_classes_per_partition=11).split(TARGETS, None, 12, 0)
    with pytest.raises(ValueError, match="class 1 has 1 examples, but 2 clients"):
        Pathological(class_assignment_mode="deterministic").split(np.array([0, 0, 0, 1]), None, 2, 0)


def test_shards_give_few_classes_and_the_promised_sizes():
    two = Shard(num_shards_per_partition=2).split(TARGETS, None, 10, 0)
    assert max(len(c) for c in _classes(two)) <= 4 and set(two.sizes()) == {60}
    aligned = Shard(num_shards_per_partition=1, shard_size=60).split(TARGETS, None, 10, 0)
    assert sorted(_classes(aligned)) == [[c] for c in range(10)]
    uneven = Shard(num_shards_per_partition=None, shard_size=70).split(TARGETS, None, 3, 0)
    assert sorted(uneven.sizes()) == [140, 210, 210]
    kept = Shard(num_shards_per_partition=None, shard_size=70, keep_incomplete_shard=True).split(TARGETS, None, 3, 0)
    assert kept.sizes().sum() == 600
    whole = Shard(num_shards_per_partition=None, shard_size=60, keep_incomplete_shard=True).split(TARGETS, None, 10, 0)
    assert whole.sizes().tolist() == [60] * 10  # 600 examples leave no smaller shard
    with pytest.raises(ValueError, match="use fewer clients, a smaller shard_size"):
        Shard(num_shards_per_partition=2, shard_size=100).split(TARGETS, None, 10, 0)
    with pytest.raises(ValidationError, match="give num_shards_per_partition or shard_size"):
        Shard(num_shards_per_partition=None)


def test_class_ladder_orders_labels_by_client():
    made = ClassLadder().split(TARGETS, None, 10, 0)
    assert _classes(made) == [[c] for c in range(10)]
    uneven = ClassLadder().split(TARGETS, None, 7, 0)
    means = [TARGETS[uneven.of(i)].mean() for i in range(7)]
    assert means == sorted(means) and uneven.sizes().max() - uneven.sizes().min() <= 1
