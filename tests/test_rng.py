"""Named streams of torch: on a CPU they start from all 128 bits of their key."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedopt import rng

KEY = 0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321


def first_numbers(monkeypatch: pytest.MonkeyPatch, key: int) -> torch.Tensor:
    monkeypatch.setattr(rng, "key", lambda *names: key)
    return torch.randn(1000, generator=rng.torch_generator("cpu", 0, "noise"), dtype=torch.float64)


@pytest.mark.parametrize("bit", [0, 31, 32, 62, 63, 100, 127])
def test_streams_whose_keys_differ_in_one_bit_are_independent(bit, monkeypatch):
    one, other = (first_numbers(monkeypatch, key) for key in (KEY, KEY ^ 1 << bit))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 4 / 1000**0.5
    assert torch.equal(one, first_numbers(monkeypatch, KEY))


def test_torch_itself_keeps_32_bits_of_a_seed():
    """Why the above is not torch's own doing: of k streams about k^2 / 2^33 pairs would be the same."""
    drawn = [
        torch.randn(5, generator=torch.Generator().manual_seed(seed)) for seed in (KEY & 2**32 - 1, KEY & 2**62 - 1)
    ]
    assert torch.equal(*drawn)


def test_the_state_is_laid_out_as_torch_lays_out_its_own():
    """Only the twister's words differ from what torch's seeding leaves, and they are 32-bit words."""
    ours, own = rng.torch_generator("cpu", 0, "noise"), torch.Generator().manual_seed(0)
    mine, theirs = (made.get_state().numpy().view(np.uint64) for made in (ours, own))
    assert (np.delete(mine, np.r_[0, 3:627]) == np.delete(theirs, np.r_[0, 3:627])).all()
    assert (mine[3:627] < 2**32).all() and len(set(mine[3:627])) > 620


def test_uniforms_and_normals_have_their_laws():
    """The first numbers of many streams, where a badly mixed state would show."""
    firsts = torch.stack([torch.rand(3, generator=rng.torch_generator("cpu", 0, "laws", i)) for i in range(4000)])
    error = (1 / 12 / 4000) ** 0.5
    assert bool(((firsts.mean(0) - 0.5).abs() < 4 * error).all())
    assert abs(float(torch.corrcoef(firsts.T)[0, 1])) < 4 / 4000**0.5
    long = torch.randn(200_000, generator=rng.torch_generator("cpu", 0, "laws"))
    assert abs(float(long.mean())) < 4 / 200_000**0.5 and abs(float(long.var()) - 1) < 4 * (2 / 200_000) ** 0.5
