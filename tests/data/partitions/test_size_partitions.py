"""Partitions that skew sizes or follow natural owners."""

import numpy as np
import pytest

from fedopt.data.partitions._split import from_owners, proportional_sizes
from fedopt.data.partitions.dirichlet_quantity import DirichletQuantity
from fedopt.data.partitions.exponential import Exponential
from fedopt.data.partitions.iid import Iid
from fedopt.data.partitions.linear import Linear
from fedopt.data.partitions.natural_id import NaturalId
from fedopt.data.partitions.square import Square

TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 120))


def test_sizes_follow_the_client_number():
    assert Linear(min_partition_size=0).split(TARGETS, None, 3, 0).sizes().tolist() == [100, 200, 300]
    assert Square(min_partition_size=0).split(TARGETS[:140], None, 3, 0).sizes().tolist() == [10, 40, 90]
    sizes = Exponential(min_partition_size=0).split(TARGETS, None, 5, 0).sizes()
    assert sizes[1:] / sizes[:-1] == pytest.approx(np.full(4, np.e), rel=0.1) and sizes.sum() == 600
    assert Exponential().split(TARGETS, None, 500, 0).sizes().min() == 1


def test_iid_is_even_and_looks_like_the_whole():
    made = Iid().split(TARGETS, None, 7, 0)
    assert sorted(set(made.sizes())) == [85, 86]
    counts = np.array([np.bincount(TARGETS[made.of(i)], minlength=5) for i in range(7)])
    chi_square = ((counts - 600 / 35) ** 2 / (600 / 35)).sum()  # 24 degrees of freedom: mean 24, sd 7
    assert chi_square < 24 + 4 * 7
    assert not np.array_equal(np.sort(made.indices[:86]), np.arange(86))


def test_quantity_skew_has_the_dirichlet_variance():
    clients, alpha = 8, 0.7
    partition = DirichletQuantity(alpha=alpha, min_partition_size=0)
    shares = np.array([partition.split(TARGETS, None, clients, seed).sizes() / 600 for seed in range(300)])
    values, expected = (shares**2).mean(axis=1), (alpha + 1) / (clients * (clients * alpha + 1))
    error = 4 * values.std() / np.sqrt(len(values))
    assert abs(values.mean() - expected) < error
    assert abs(values.mean() - 1.5 * expected) > error and abs(values.mean() - expected / 1.5) > error
    assert DirichletQuantity(alpha=0.01, min_partition_size=3).split(TARGETS, None, 20, 0).sizes().min() >= 3


def test_proportional_sizes_always_sum_and_keep_the_minimum():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count, minimum = int(rng.integers(1, 20)), int(rng.integers(0, 4))
        total = count * minimum + int(rng.integers(0, 50))
        sizes = proportional_sizes(rng.random(count) + 1e-3, total, minimum)
        assert sizes.sum() == total and sizes.min() >= minimum


def test_from_owners_leaves_out_minus_one():
    made = from_owners(np.array([1, -1, 0, 1]), 3)
    assert [made.of(i).tolist() for i in range(3)] == [[2], [0, 3], []]


def test_natural_owners():
    groups = np.array(["b", "a", "c", "a", "b", "b"])
    targets = np.zeros(6, dtype=np.int64)
    exact = NaturalId().split(targets, groups, 3, 0)
    assert [exact.of(i).tolist() for i in range(3)] == [[1, 3], [0, 4, 5], [2]]
    merged = NaturalId().split(targets, groups, 2, 0)
    assert merged.sizes().sum() == 6
    for owner in "abc":
        holders = {i for i in range(2) for e in merged.of(i) if groups[e] == owner}
        assert len(holders) == 1
    dropped = NaturalId(surplus_owners="drop").split(targets, groups, 2, 0)
    assert [dropped.of(i).tolist() for i in range(2)] == [[1, 3], [0, 4, 5]]
    with pytest.raises(ValueError, match="3 natural owners: use at most 3 clients, or surplus_clients: divide"):
        NaturalId().split(targets, groups, 4, 0)
    with pytest.raises(ValueError, match="no natural owner"):
        NaturalId().split(targets, None, 2, 0)


def test_natural_owners_divided_in_proportion():
    groups = np.repeat(["big", "small"], [300, 100])
    made = NaturalId(surplus_clients="divide").split(np.zeros(400, dtype=np.int64), groups, 8, 0)
    owners = [set(groups[made.of(i)]) for i in range(8)]
    assert owners == [{"big"}] * 6 + [{"small"}] * 2 and set(made.sizes()) == {50}
    tight = NaturalId(surplus_clients="divide").split(np.zeros(6, dtype=np.int64), np.array(list("aabccc")), 6, 0)
    assert tight.sizes().tolist() == [1] * 6
