"""Shuffle mechanisms: unbiased, right variance, private messages, no ids, too few clients."""

from __future__ import annotations

import math

import pytest
import torch
from privacy_cohorts import SeededNoise, one_release, scenario

from fedopt.privacy.mechanisms.shuffle_hemisphere import ShuffleHemisphere
from fedopt.privacy.mechanisms.shuffle_vector_sum import ShuffleVectorSum
from fedopt.privacy.releases import ShuffledSumEvent, ShuffleEvent
from fedopt.types import Public


def vector_sum(clients, dimension, **settings):
    public = Public(clients, float(clients), is_private=True, dimension=dimension)
    return ShuffleVectorSum(clipping_norm=1.5, **settings).prepared(scenario(), public), public


def test_vector_sums_are_unbiased_with_the_stated_variance():
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    rows = rows / rows.norm(dim=1, keepdim=True)
    levels, bits, bias = 16, 7, 0.25
    mechanism, public = vector_sum(20, 6, levels=levels, bits=bits, bias=bias)
    sums = (
        torch.stack(
            [
                one_release(mechanism, rows, noise=SeededNoise(seed), public=public)[0].values["update"]
                for seed in range(800)
            ]
        ).double()
        * 20
    )
    fractions = (rows.double() + 1.5) * levels / 3.0 % 1
    variance = (3.0 / levels) ** 2 * (20 * bits * bias * (1 - bias) + (fractions * (1 - fractions)).sum(0))
    error = (variance / 800).sqrt()
    assert bool(((sums.mean(0) - rows.double().sum(0)).abs() < 4 * error).all())
    ratio = sums.var(0) / variance
    assert bool(((ratio - 1).abs() < 5 * math.sqrt(2 / 800)).all())
    assert not bool(((ratio * 4 / 9 - 1).abs() < 5 * math.sqrt(2 / 800)).any())
    assert not bool(((ratio * 9 / 4 - 1).abs() < 5 * math.sqrt(2 / 800)).any())


def test_vector_sum_event_and_bytes():
    mechanism, public = vector_sum(20, 6, levels=16, bits=7)
    release, result = one_release(mechanism, torch.zeros(20, 6), public=public)
    assert release.events == (ShuffledSumEvent(20, 6, 16, 7, 0.25),)
    counts = result.parts["update"].values
    assert counts.dtype == torch.int64 and int(counts.min()) >= 0 and int(counts.max()) <= 16 + 7
    assert mechanism.reply_bytes(6, 24) == math.ceil(6 * 23 * (1 + 3) / 8)


def test_more_noise_bits_for_a_larger_level():
    mechanism, _ = vector_sum(100, 10, minimum_clients=100)
    bits = [mechanism.with_noise_level(level, 1, None).bits for level in (0.5, 1.0, 2.0)]
    assert bits == sorted(bits) and bits[0] < bits[2]


def test_a_model_too_large_for_bit_messages_is_refused():
    with pytest.raises(ValueError, match=r"messages per parameter.*shuffle_hemisphere"):
        vector_sum(10, 5000)


def test_too_few_clients_release_nothing():
    mechanism, public = vector_sum(10, 4, bits=3, minimum_clients=5)
    release, _ = one_release(mechanism, torch.ones(4, 4), public=public)
    assert release.events == () and float(release.values["update"].abs().sum()) == 0
    few, _ = one_release(ShuffleHemisphere(local_epsilon=1.0, minimum_clients=5), torch.ones(4, 4))
    assert few.events == () and float(few.values["update"].abs().sum()) == 0


@pytest.mark.parametrize("norm", [0.0, 0.4, 1.0])
def test_hemisphere_messages_are_unbiased_and_of_one_length(norm):
    row = torch.tensor([3.0, -4.0, 12.0]) / 13 * norm
    mechanism = ShuffleHemisphere(clipping_norm=1.0, local_epsilon=2.0)
    _, result = one_release(mechanism, row.expand(20_000, 3))
    messages = result.parts["update"].rows().double()
    assert torch.allclose(messages.norm(dim=1), torch.full((20_000,), mechanism.length(3), dtype=torch.float64))
    error = messages.std(0) / 20_000**0.5
    assert bool(((messages.mean(0) - row).abs() < 4 * error).all())
    if norm == 1.0:
        assert not bool(((messages.mean(0) - row * 2 / 3).abs() < 4 * error).all())


def test_hemisphere_density_ratio_is_the_local_epsilon():
    """The side of the input's hyperplane is seen with probabilities in ratio e^eps0, never more."""
    eps0, draws = 1.0, 20_000
    mechanism = ShuffleHemisphere(clipping_norm=1.0, local_epsilon=eps0)
    sides = []
    for sign in (1.0, -1.0):
        row = torch.tensor([sign, 0.0, 0.0, 0.0])
        messages = one_release(mechanism, row.expand(draws, 4), noise=SeededNoise(int(sign) + 5))[1].parts["update"]
        sides.append(float((messages.rows()[:, 0] > 0).double().mean()))
    high = math.exp(eps0) / (1 + math.exp(eps0))
    error = 4 * math.sqrt(high * (1 - high) / draws)
    assert abs(sides[0] - high) < error and abs(sides[1] - (1 - high)) < error


def test_hemisphere_event_counts_delivered_messages():
    release, _ = one_release(ShuffleHemisphere(local_epsilon=0.5), torch.ones(9, 4))
    assert release.events == (ShuffleEvent(0.5, 9),)


def test_shuffled_replies_are_anonymous_and_unweighted():
    for mechanism in (ShuffleHemisphere(local_epsilon=1.0), vector_sum(2, 4, bits=1)[0]):
        assert type(mechanism).anonymous and type(mechanism).trusts == ("shuffle",)
        with pytest.raises(ValueError, match="every reply to count alike"):
            one_release(mechanism, torch.zeros(2, 4), weights=[1.0, 0.5])
