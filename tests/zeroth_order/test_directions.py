"""Directions: known answers, the same bits on every chunking, no collisions, right distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fedopt import rng
from fedopt.zeroth_order import _philox
from fedopt.zeroth_order.directions import Directions, batch, orthonormal, uniform

KINDS = ("rademacher", "gaussian", "sphere", "coordinate")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

# Published known answers of Random123: counter, key, result.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox_by_hand(counter: list[int], key: list[int]) -> list[int]:
    """The textbook rounds in Python integers."""
    mask = 0xFFFFFFFF
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, result):
    assert philox_by_hand(counter, key) == result
    assert _philox.philox4x32(torch.tensor(counter), torch.tensor(key)).tolist() == result


def test_words_place_key_direction_and_block_in_the_counter():
    key, index = rng.key(3, "doc"), 7
    low = [(key >> shift) & 0xFFFFFFFF for shift in (0, 32, 64, 96)]
    made = _philox.words(_philox.key_tensor([key]), torch.tensor([index]), 2, 5)[0].tolist()
    expected = [w for block in (2, 3, 4) for w in philox_by_hand([block, index, low[2], low[3]], low[:2])]
    assert made == expected


def test_signs_are_the_bits_of_the_words_lowest_first():
    key = rng.key(0, "bits")
    word = int(_philox.words(_philox.key_tensor([key]), torch.tensor([0]), 0, 1)[0, 0])
    signs = Directions("rademacher", 32, key).block(0, 32)
    assert signs.tolist() == [-1.0 if word >> bit & 1 else 1.0 for bit in range(32)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_chunking_gives_the_same_bits(kind):
    dimension = 70_001  # crosses a Gaussian block
    stream = Directions(kind, dimension, rng.key(0, "chunks"))
    whole = stream.block(0, dimension, index=3)
    cuts = [0, 1, 31, 128, 129, 65_535, 65_537, dimension]
    parts = [stream.block(a, b, index=3) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(batch(kind, dimension, [stream.key], 2, first_index=2)[0, 1], whole)


@pytest.mark.parametrize("kind", KINDS)
def test_add_equals_the_materialised_directions(kind):
    dimension = 2_100_003 if kind == "rademacher" else 70_001
    stream = Directions(kind, dimension, rng.key(1, "add"))
    theta = torch.randn(dimension, generator=torch.Generator().manual_seed(0))
    expected = theta.clone()
    for k, scale in enumerate((0.3, -1e-3)):
        expected = expected + stream.block(0, dimension, index=5 + k) * scale
    at_once = stream.add_(theta.clone(), (0.3, -1e-3), first_index=5)
    one_by_one = stream.add_(stream.add_(theta.clone(), 0.3, 5), -1e-3, 6)
    assert torch.equal(at_once, expected) and torch.equal(one_by_one, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pair_and_dot(kind):
    stream = Directions(kind, 1000, rng.key(2, "pair"))
    theta = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    direction = stream.block(0, 1000, index=4)
    plus, minus = stream.pair(theta, 0.25, index=4)
    assert torch.equal(plus, theta + 0.25 * direction) and torch.equal(minus, theta - 0.25 * direction)
    assert stream.dot(theta, index=4) == pytest.approx(float(direction.double() @ theta.double()), rel=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_one_key_gives_one_direction_on_every_device(device):
    key = rng.key(5, "device")
    for kind in KINDS:
        on_cpu = Directions(kind, 3000, key).block(0, 3000)
        assert torch.equal(Directions(kind, 3000, key).block(0, 3000, device=device).cpu(), on_cpu)
    theta = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    stream = Directions("rademacher", 3000, key)
    assert torch.equal(stream.add_(theta.clone().to(device), [0.1, 0.7]).cpu(), stream.add_(theta.clone(), [0.1, 0.7]))


def test_pinned_bits():
    """Fails if the stream of a key ever changes: logs and checkpoints hold keys, not vectors."""
    key = rng.key(0, "pinned")
    signs = Directions("rademacher", 16, key).block(0, 16)
    assert "".join("+" if s > 0 else "-" for s in signs.tolist()) == PINNED_SIGNS
    assert Directions("gaussian", 3, key).block(0, 3).tolist() == pytest.approx(PINNED_GAUSSIAN, abs=1e-6)


PINNED_SIGNS = "++--+-+--+-+++-+"
PINNED_GAUSSIAN = [0.2238688, 1.3034726, 0.5258031]


def test_streams_do_not_collide():
    """2**17 keys, and 2**17 directions of one key: all first words differ in their 128 bits."""
    keys = [rng.key(0, "collide", i) for i in range(1 << 12)]
    tensor = _philox.key_tensor(keys).repeat_interleave(32, 0)
    indices = torch.arange(32).repeat(len(keys))
    blocks = _philox.words(tensor, indices, 0, 1)
    assert len(torch.unique(blocks, dim=0)) == 1 << 17
    # Keys that agree in the lower 64 bits, and keys that a 32-bit seed would confuse, are still different.
    low = 12345
    a, b = (Directions("rademacher", 256, k).block(0, 256) for k in (low, low + (1 << 64)))
    c = Directions("rademacher", 256, low + (1 << 32)).block(0, 256)
    assert not torch.equal(a, b) and not torch.equal(a, c)


def test_rademacher_statistics():
    signs = Directions("rademacher", 1 << 20, rng.key(0, "statistics")).block(0, 1 << 20, dtype=torch.float64)
    limit = 4.5 * 2**-10  # standard errors of a mean of 2**20 signs
    assert abs(float(signs.mean())) < limit
    for lag in (1, 2, 31, 32, 33, 64, 96, 128):
        assert abs(float((signs[lag:] * signs[:-lag]).mean())) < 1.01 * limit
    per_bit = signs.view(-1, 32).mean(0)
    assert float(per_bit.abs().max()) < 4.5 * 2**-7.5
    other = Directions("rademacher", 1 << 20, rng.key(1, "statistics")).block(0, 1 << 20, dtype=torch.float64)
    next_index = Directions("rademacher", 1 << 20, rng.key(0, "statistics")).block(0, 1 << 20, 1, dtype=torch.float64)
    assert abs(float((signs * other).mean())) < limit and abs(float((signs * next_index).mean())) < limit


def test_gaussian_moments_reject_wrong_scales():
    made = Directions("gaussian", 400_000, rng.key(0, "normal")).block(0, 400_000).double()
    error = made.numel() ** -0.5
    assert abs(float(made.mean())) < 4 * error
    for scale in (1.0, 2 / 3, 3 / 2):
        variance = float((scale * made).square().mean())
        assert (abs(variance - 1) < 4 * error * 2**0.5) is (scale == 1.0)
    assert abs(float(made.pow(4).mean()) - 3) < 4 * error * 96**0.5
    assert abs(float((made[1:] * made[:-1]).mean())) < 4 * error


def test_sphere_has_unit_length_and_coordinate_is_one_hot():
    sphere = batch("sphere", 50, [rng.key(0, "s")], 1000, dtype=torch.float64)[0]
    torch.testing.assert_close(sphere.norm(dim=1), torch.ones(1000, dtype=torch.float64), atol=1e-6, rtol=0)
    covariance = sphere.T @ sphere / 1000 * 50
    assert float((covariance - torch.eye(50)).abs().max()) < 4.5 * (2 / 1000) ** 0.5 * 1.2
    hot = batch("coordinate", 5, [rng.key(0, "c")], 2000)[0]
    assert torch.equal(hot.sum(1), torch.ones(2000)) and set(hot.unique().tolist()) == {0.0, 1.0}
    assert float((hot.mean(0) - 0.2).abs().max()) < 4 * (0.16 / 2000) ** 0.5


def test_orthonormal_frames_are_gram_schmidt_of_the_gaussian_ones():
    keys = [rng.key(0, "frame", i) for i in range(3)]
    frames = orthonormal(12, keys, 5, dtype=torch.float64)
    torch.testing.assert_close(
        frames @ frames.mT, torch.eye(5, dtype=torch.float64).expand(3, 5, 5), atol=1e-12, rtol=0
    )
    gaussian = batch("gaussian", 12, keys, 5, dtype=torch.float64)
    first = gaussian[:, 0] / gaussian[:, 0].norm(dim=1, keepdim=True)
    torch.testing.assert_close(frames[:, 0], first)
    assert torch.all((frames * gaussian).sum(-1) > 0)
    with pytest.raises(ValueError, match="at most 4 directions are orthogonal in dimension 4, asked for 5"):
        orthonormal(4, keys, 5)


def test_uniform_is_uniform_and_counts_from_its_key():
    keys = [rng.key(0, "u", i) for i in range(4)]
    made = uniform(keys, 50_001)
    assert made.shape == (4, 50_001) and float(made.min()) > 0 and float(made.max()) < 1
    assert abs(float(made.mean()) - 0.5) < 4 * (1 / 12 / made.numel()) ** 0.5
    assert abs(float(made.var()) - 1 / 12) < 4 * (1 / 180 / made.numel()) ** 0.5
    assert torch.equal(uniform(keys[2:3], 100)[0], made[2, :100])
    assert not torch.equal(uniform(keys, 100, index=1), made[:, :100])


def test_gaussian_stream_is_numpy_philox():
    key = rng.key(9, "np")
    expected = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 1, 4])).standard_normal(7, dtype=np.float32)
    made = Directions("gaussian", 70_000, key).block(65_536, 65_543, index=4)
    assert np.array_equal(made.numpy(), expected)


def test_refusals():
    with pytest.raises(ValueError, match="unknown kind of direction 'cauchy'"):
        Directions("cauchy", 4, 1)
    with pytest.raises(ValueError, match="128 bits and no sign, got -1"):
        Directions("gaussian", 4, -1)
    with pytest.raises(ValueError, match=r"block \[2, 9\) does not lie in \[0, 4\)"):
        Directions("gaussian", 4, 1).block(2, 9)
    with pytest.raises(ValueError, match=r"shape \(4,\), got torch.float32 with shape \(2, 2\)"):
        Directions("gaussian", 4, 1).add_(torch.zeros(2, 2), 1.0)
