"""Sums over many small batches: in one go, with the numbers of one after the other, and storable on their own."""

import pytest
import torch

from fedopt.engine.base import ConcatUpdates, DenseUpdates, LocalRule, concatenated
from fedopt.engine.batched import Batched
from fedopt.engine.pieces import DualPiece
from fedopt.engine.sums import sum_of_small
from fedopt.engine.updates import with_own_inputs

RULES = {"plain": {}, "decay": {"weight_decay": 0.1}, "prox": {"proximal": 0.3, "momentum": 0.5}}


def batches(tiny, rule, dual="always"):
    """Rows of several computed batches, one or two of each, in dual form."""
    engine = tiny.engine("dual", tiny.chain(hidden=40))
    engine.formulation = engine._formulations.chosen = Batched(engine.task, dual)
    found = []
    for seed, versions in ((3, 2), (4, 1), (5, 2)):
        cohort = tiny.cohort(engine, (3, 6, 2, 9, 0), versions=versions, seed=seed)
        plan = engine.plan_batches(cohort, 4)
        found.append(engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.2), **rule), plan).updates)
    return found


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_small_batches_are_summed_together(tiny, rule):
    taken = [found.take(rows) for found, rows in zip(batches(tiny, rule), ([3, 1], [0], [4, 2, 3]), strict=True)]
    joined, weights = concatenated(taken), torch.linspace(-1.0, 2.0, 6)
    assert isinstance(joined, ConcatUpdates) and not any(isinstance(each, ConcatUpdates) for each in joined.pieces)
    assert len(sum_of_small(joined.pieces, list(weights.split([2, 1, 3])))) == 1
    expected = weights @ joined.rows()
    torch.testing.assert_close(joined.weighted_sum(weights), expected, rtol=1e-5, atol=1e-6)
    # The last batch counted twice must be noticed.
    assert (joined.weighted_sum(weights * torch.tensor([1, 1, 1, 2, 2, 2])) - expected).norm() > 0.1 * expected.norm()


def test_large_ones_and_other_forms_stay_apart(tiny):
    first, second, _ = batches(tiny, {})
    rows = DenseUpdates(first.rows())
    for pieces, groups in (([first.take([0]), rows, second.take([1])], 3), ([rows, rows], 2)):
        assert len(sum_of_small(pieces, [torch.ones(len(each)) for each in pieces])) == groups
    many = [first.take([1, 2]) for _ in range(20)]
    assert [len(call.args[0]) for call in sum_of_small(many, [torch.ones(2)] * 20)] == [8, 8, 4]


def test_taken_rows_leave_their_padding_behind(tiny):
    (first, *_) = batches(tiny, {})
    taken = first.take([0, 2])  # 3 and 2 steps, of batches of 4
    for piece in taken.pieces:
        if isinstance(piece, DualPiece):
            assert piece.index.shape[1] == piece.coefficients.shape[1] == max(piece.used) <= 12
    torch.testing.assert_close(taken.rows(), first.rows()[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_stored_updates_hold_only_the_examples_they_used(tiny, rule):
    (first, *_) = batches(tiny, rule)
    few = first.take([0])
    own = with_own_inputs(concatenated([few, few]))
    weights = torch.tensor([1.0, -3.0])
    assert torch.equal(own.weighted_sum(weights), concatenated([few, few]).weighted_sum(weights))
    assert torch.equal(own.rows(), concatenated([few, few]).rows())
    sizes = [len(p.inputs) for each in own.pieces for p in each.pieces if isinstance(p, DualPiece)]
    assert sizes and max(sizes) <= 12 < 45
