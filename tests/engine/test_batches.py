"""Batch plans: who is in which batch."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedopt.data.base import ClientIndex
from fedopt.engine.base import Cohort
from fedopt.engine.batches import plan_batches, steps_only

INDEX = ClientIndex.from_lists([np.arange(0, 7), np.arange(100, 120), np.zeros(0, np.int64), np.array([50])])


def cohort(steps, clients=(0, 1, 2, 3), tasks=None, seed=0):
    return Cohort(clients, tasks or (0,) * len(clients), (SimpleNamespace(parts={}),) * len(clients), steps, seed)


def members(plan, row):
    return [plan.indices[row, s, : plan.counts[row, s]] for s in range(plan.steps[row])]


def test_shuffled_passes_see_every_example_once():
    plan = plan_batches(cohort((6, 14, 3, 2)), INDEX, 3)
    assert plan.steps.tolist() == [6, 14, 0, 2]
    batches = members(plan, 0)
    assert [len(b) for b in batches] == [3, 3, 1, 3, 3, 1]
    for first in (0, 3):
        assert sorted(np.concatenate(batches[first : first + 3])) == list(range(7))
    assert not np.array_equal(np.concatenate(batches[:3]), np.concatenate(batches[3:]))
    assert sorted(np.concatenate(members(plan, 1)[:7])) == list(range(100, 120))
    assert np.array_equal(plan.denominators[0, :3], [3, 3, 1])


def test_full_batches():
    plan = plan_batches(cohort((2, 1, 0, 1)), INDEX, "full")
    assert all(sorted(batch) == list(range(7)) for batch in members(plan, 0))
    assert sorted(members(plan, 1)[0]) == list(range(100, 120))


def test_sampled_batches_have_different_examples_and_are_fresh():
    plan = plan_batches(cohort((50, 50, 0, 2)), INDEX, 5, "sampled")
    batches = members(plan, 1)
    assert all(len(set(batch)) == 5 for batch in batches)
    counts = np.bincount(np.concatenate(batches) - 100, minlength=20)
    assert counts.sum() == 250 and counts.min() > 2


@pytest.mark.parametrize("claimed", [2 / 3, 1.0, 3 / 2])
def test_poisson_rate(claimed):
    """Mean count = q n within four standard errors; 2/3 and 3/2 of it are rejected."""
    plan = plan_batches(cohort((1000,), (1,)), INDEX, 10, "poisson", sampling_probability=0.2)
    error = np.sqrt(20 * 0.2 * 0.8 / 1000)
    accepted = abs(plan.counts.mean() - claimed * 4.0) < 4 * error
    assert accepted == (claimed == 1.0)
    assert all(len(set(batch)) == len(batch) for batch in members(plan, 0))
    assert (plan.denominators == 4.0).all(), "a public constant, not the drawn count"


def test_poisson_by_batch_size_and_denominator():
    plan = plan_batches(cohort((3, 3), (0, 1)), INDEX, 10, "poisson")
    assert plan.denominators[0, 0] == 7.0 and plan.denominators[1, 0] == 10.0
    assert plan.counts[0].tolist() == [7, 7, 7], "B >= n_i: probability one"
    assert (plan_batches(cohort((3,), (1,)), INDEX, 10, denominator=32.0).denominators == 32.0).all()


def test_streams_are_named_by_client_and_task():
    """A row's batches depend on (seed, client, task) only, not on its company."""
    alone = plan_batches(cohort((5,), (1,), (4,)), INDEX, 3)
    together = plan_batches(cohort((2, 5), (0, 1), (0, 4)), INDEX, 3)
    assert np.array_equal(np.concatenate(members(alone, 0)), np.concatenate(members(together, 1)))
    for other in (cohort((5,), (1,), (5,)), cohort((5,), (1,), (4,), seed=1)):
        different = plan_batches(other, INDEX, 3)
        assert not np.array_equal(np.concatenate(members(alone, 0)), np.concatenate(members(different, 0)))


def test_unknown_order_is_refused():
    with pytest.raises(ValueError, match="order must be shuffled, sampled or poisson, got 'sorted'"):
        plan_batches(cohort((1,), (0,)), INDEX, 3, "sorted")


def test_steps_only():
    plan = steps_only(cohort((3, 1), (0, 1)))
    assert plan.steps.tolist() == [3, 1] and plan.indices.shape == (2, 3, 0)
