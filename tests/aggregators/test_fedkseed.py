"""FedKSeed's server by hand: what accumulates, with which weight, and what is sent once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fedopt.aggregators.fedkseed import FedKSeed
from fedopt.zeroth_order.fedkseed import candidate_directions

D, K = 5, 3


@pytest.mark.parametrize("weights, share", [("uniform", 0.5), ("num_examples", 0.75)])
def test_the_model_is_the_start_and_all_sums_so_far(drive, weights, share):
    drive.public = dataclasses.replace(drive.public, num_examples=np.array([3, 1, 1, 1]))
    method = FedKSeed(candidates=K, step_size=0.1, weights=weights)
    start = torch.arange(float(D))
    first = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, -1.0]])
    second = torch.tensor([[0.5, -1.0, 2.0], [0.0, 4.0, 0.0]])
    state, summed = method.init(start, drive.public), torch.zeros(K)
    for sums in (first, second):
        state = drive.step(method, state, [(0.0,)] * 2, accumulated=sums)
        summed = summed + share * sums[0] + (1 - share) * sums[1]
        torch.testing.assert_close(state.accumulated, summed)
    rows = candidate_directions("gaussian", D, drive.public.seed).matrix(K)
    torch.testing.assert_close(state.params, start - 0.1 * summed @ rows)


def test_histories_of_pro_are_sums_over_all_replies(drive):
    method = FedKSeed(candidates=K, pro=True)
    state = method.init(torch.zeros(D), drive.public)
    for _ in range(2):
        state = drive.step(
            method, state, [(0.0,)] * 2, accumulated=torch.ones(2, K),
            sizes=torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]),
            counts=torch.tensor([[1.0, 0.0, 1.0], [2.0, 0.0, 0.0]]),
        )  # fmt: skip
    assert state.totals.tolist() == [8.0, 0.0, 4.0] and state.counts.tolist() == [7.0, 1.0, 3.0]
    means = torch.tensor([8 / 7, 0.0, 4 / 3], dtype=torch.float64)
    wanted = torch.softmax(means / (4 / 3), 0)
    torch.testing.assert_close(method.payload(state, 0, 1).parts["probabilities"], wanted)


@pytest.mark.parametrize("seeds, once", [("derived", 8), ("sent", 8 * K)])
def test_seeds_are_sent_once(drive, seeds, once):
    method = FedKSeed(candidates=K, seeds=seeds)
    state = method.init(torch.zeros(D), drive.public)
    assert [method.payload(state, 0, last).num_bytes for last in (None, 0)] == [4 * K + once, 4 * K]
