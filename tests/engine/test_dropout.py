"""Masks of dropout: a function of their names, uniform, and unrelated between clients, layers and positions."""

import numpy as np
import pytest
import torch

from fedopt.engine.dropout import StreamDropout, kept, mask_keys, seen_before

CPU = torch.device("cpu")


def masks(tasks, layers, size, probability, begin=0):
    keys = torch.from_numpy(np.stack([mask_keys(7, 3, task, layers) for task in range(tasks)]).reshape(-1, 2))
    begins = torch.full((len(keys),), begin, dtype=torch.int32)
    return kept(keys, begins, (size,), probability, CPU)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.75, 0.999])
def test_the_share_of_kept_values(probability):
    found = masks(50, 2, 4000, probability).double()
    error = 4 * np.sqrt(probability * (1 - probability) / found.numel())
    assert float(found.mean()) == pytest.approx(1 - probability, abs=error + 1e-12)
    # Per mask as well: the spread of the masks' means is that of independent draws (chi-square, 100 masks, +-4 s.e.).
    if probability:
        spread = found.mean(1).var() / (probability * (1 - probability) / 4000)
        assert float(spread) == pytest.approx(1.0, abs=4 * np.sqrt(2 / 99))


def test_masks_of_tasks_and_layers_and_shifted_ones_are_uncorrelated():
    found = masks(60, 2, 5000, 0.5).double() * 2 - 1
    products = found @ found.T / np.sqrt(5000)
    off = products[~torch.eye(120, dtype=torch.bool)]
    assert float(off.abs().max()) < 5.5 and float(off.std()) == pytest.approx(1.0, abs=0.05)
    for lag in (1, 2, 64, 128, 1000):
        shifted = (found[:, :-lag] * found[:, lag:]).mean() * np.sqrt(found[:, lag:].numel())
        assert abs(float(shifted)) < 4.5


def test_a_mask_is_a_function_of_its_position():
    whole, rest = masks(3, 1, 100, 0.3), masks(3, 1, 60, 0.3, begin=40)
    assert torch.equal(whole[:, 40:], rest)
    layer = StreamDropout(0.3).train()
    layer.begin(torch.from_numpy(mask_keys(7, 3, 1, 1))[0])
    ones = torch.ones(100)
    pieces = torch.cat([layer(ones[:33]), layer(ones[33:70]), layer(ones[70:])])
    assert torch.equal(pieces > 0, whole[1])
    torch.testing.assert_close(pieces[whole[1]], torch.full((int(whole[1].sum()),), 1 / 0.7))
    assert torch.equal(layer.eval()(ones), ones)


def test_positions_wrap_around():
    layer = StreamDropout(0.5).train()
    layer.begin(torch.from_numpy(mask_keys(0, 0, 0, 1))[0])
    layer._position = 2**31 - 2
    there = layer(torch.ones(4))
    layer._position = 2**31 - 2 + 2**32
    assert torch.equal(layer(torch.ones(4)), there)


def test_examples_before_a_step():
    assert seen_before(np.array([[4, 4, 1], [2, 0, 3]])).tolist() == [[0, 4, 8], [0, 2, 2]]
