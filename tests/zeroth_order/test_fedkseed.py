"""FedKSeed: equal to FedAvg of the locally trained models, Pro's probabilities, skipping."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fedopt.zeroth_order import fedkseed

COHORT, D, K, TAU, SEED, LR = 3, 12, 16, 20, 3, 0.02
TARGETS = torch.randn(COHORT, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn(D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def losses(points: torch.Tensor) -> torch.Tensor:
    return 0.5 * (points - TARGETS[:, None]).square().sum(-1)


def train(theta: torch.Tensor, round_number: int, **options) -> fedkseed.LocalWork:
    candidates = fedkseed.candidate_directions("rademacher", D, SEED)
    seeds = fedkseed.choose_seeds(SEED, range(COHORT), round_number, TAU, K)
    options = {"losses_at": lambda t: losses, **options}
    return fedkseed.local_training(theta, candidates, seeds, 1e-3, LR, **options)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_the_weighted_mean_of_local_models_without_weight_decay_only(weight_decay):
    candidates = fedkseed.candidate_directions("rademacher", D, SEED)
    accumulated, averaged = torch.zeros(K, dtype=torch.float64), START
    for number in range(3):
        theta = fedkseed.build_model(START, accumulated, candidates, LR)
        work = train(theta, number, weight_decay=weight_decay)
        accumulated = fedkseed.accumulate(accumulated, work, WEIGHTS)
        averaged = WEIGHTS @ work.models
    rebuilt = fedkseed.build_model(START, accumulated, candidates, LR)
    difference = float((rebuilt - averaged).abs().max())
    assert (difference < 1e-10) is (weight_decay == 0.0)
    assert float(losses(rebuilt[None, None]).mean()) < float(losses(START[None, None]).mean())


def test_messages_and_counters():
    work = train(START, 0)
    assert work.seeds.shape == work.scalars.shape == (COHORT, TAU)
    assert int(work.seeds.max()) < K and work.queries == 2 * TAU
    dense = fedkseed.accumulate(torch.zeros(K), work, torch.tensor([1.0, 0.0, 0.0]))
    expected = torch.zeros(K, dtype=torch.float64)
    for seed, scalar in zip(work.seeds[0].tolist(), work.scalars[0].tolist(), strict=True):
        expected[seed] += scalar
    torch.testing.assert_close(dense, expected)


def test_a_bad_loss_is_skipped_and_nothing_but_bad_losses_is_a_bad_reply():
    def broken(points, from_row=1):
        made = losses(points)
        made[from_row:] = float("nan")
        return made

    work = train(START, 0, losses_at=lambda t: broken if t < TAU - 1 else partial(broken, from_row=2))
    assert work.scalars[1].tolist()[:-1] == [0.0] * (TAU - 1) and float(work.scalars[1, -1]) != 0
    assert work.scalars[2].isnan().all() and torch.equal(work.models[2], START) and not work.kept[2].any()
    assert torch.all(work.scalars[0] != 0) and torch.equal(work.scalars[0], train(START, 0).scalars[0])
    clipped = train(START, 0, loss_clip=1e-12)
    assert torch.all(clipped.scalars == 0)
    gap = float(train(START, 0).scalars[0, 0].abs()) * 2e-3  # between the two losses of the first step
    for share, kept in ((0.95, False), (1.05, True)):
        assert bool(train(START, 0, loss_clip=share * gap).kept[0, 0]) is kept


def test_choices_are_per_client_and_follow_the_probabilities():
    seeds = fedkseed.choose_seeds(SEED, [0, 1], 0, 4000, 4)
    assert not torch.equal(seeds[0], seeds[1])
    assert torch.equal(fedkseed.choose_seeds(SEED, [1], 0, 4000, 4)[0], seeds[1])
    counts = torch.bincount(seeds.flatten(), minlength=4) / 8000
    assert float((counts - 0.25).abs().max()) < 4 * (0.1875 / 8000) ** 0.5
    skewed = fedkseed.choose_seeds(SEED, [0], 0, 4000, 2, torch.tensor([0.9, 0.1]))
    assert float(skewed.double().mean()) == pytest.approx(0.1, abs=4 * (0.09 / 4000) ** 0.5)


def test_pro_prefers_seeds_with_large_scalars():
    history = fedkseed.pro_start(3)
    torch.testing.assert_close(fedkseed.pro_probabilities(history), torch.full((3,), 1 / 3, dtype=torch.float64))
    seeds, scalars = torch.tensor([[0, 1]]), torch.tensor([[5000.0, -4.0]])
    history = fedkseed.pro_update(history, fedkseed.LocalWork(seeds, scalars, scalars != 0, torch.zeros(1, 1), 0))
    # Means 1000/2, 4/2, 0: min-max scaled 1, 0.004, 0.
    expected = torch.softmax(torch.tensor([1.0, 0.004, 0.0], dtype=torch.float64), 0)
    torch.testing.assert_close(fedkseed.pro_probabilities(history), expected, rtol=1e-6, atol=1e-9)
    # A skipped step is no measurement. Means 1003/3, 4/2, 6/2 lie between 2 and 1003/3.
    seeds, scalars = torch.tensor([[0, 1, 2]]), torch.tensor([[3.0, 0.0, 6.0]])
    history = fedkseed.pro_update(history, fedkseed.LocalWork(seeds, scalars, scalars != 0, torch.zeros(1, 1), 0))
    expected = torch.softmax(torch.tensor([1.0, 0.0, 1 / (1003 / 3 - 2)], dtype=torch.float64), 0)
    torch.testing.assert_close(fedkseed.pro_probabilities(history), expected, rtol=1e-6, atol=1e-9)
