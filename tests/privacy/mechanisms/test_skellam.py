"""Skellam: exact modular sums, unbiased rounding, norms, noise variance, drop-out."""

from __future__ import annotations

import math

import pytest
import torch
from privacy_cohorts import assert_only_this_scale, one_release, scenario

from fedopt.engine.base import DenseUpdates
from fedopt.privacy.mechanisms._integers import IntegerUpdates, hadamard, padded, round_within, rounded_norm
from fedopt.privacy.mechanisms.skellam import Skellam
from fedopt.privacy.releases import SkellamEvent
from fedopt.rng import TorchDraws
from fedopt.types import Public


def prepared(clients, dimension, **settings):
    public = Public(clients, float(clients), is_private=True, dimension=dimension)
    return Skellam(**settings).prepared(scenario(), public), public


def test_hadamard_is_orthonormal_and_its_own_inverse():
    rows = torch.randn(3, 64, dtype=torch.float64)
    assert torch.allclose(hadamard(hadamard(rows)), rows)
    assert torch.allclose(hadamard(rows).norm(dim=1), rows.norm(dim=1))
    with_two = hadamard(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert torch.allclose(with_two, torch.full((1, 2), 0.5**0.5, dtype=torch.float64))


def test_rounded_norms_of_the_card():
    beta = math.exp(-0.5)
    assert rounded_norm(100, 10_000, beta) == pytest.approx(112.472, abs=1e-3)
    assert rounded_norm(1000, 10_000, beta) == pytest.approx(1001.773, abs=1e-3)


def test_modular_sums_wrap_around_exactly():
    modulus = 2**16
    signed = torch.randint(-4000, 4000, (7, 50), generator=torch.Generator().manual_seed(0))
    messages = IntegerUpdates(signed % modulus, modulus)
    halves = messages.take([0, 1, 2]).weighted_sum(torch.ones(3)) + messages.take([3, 4, 5, 6]).weighted_sum(
        torch.ones(4)
    )
    total = halves.long() % modulus
    opened = torch.where(total >= modulus // 2, total - modulus, total)
    assert torch.equal(opened, signed.sum(0))


def test_without_noise_the_mean_is_recovered_to_the_grid():
    rows = torch.randn(10, 37, generator=torch.Generator().manual_seed(1))
    mechanism, public = prepared(10, 37, clipping_norm=1.0, noise_multiplier=0.0, bits=24)
    release, _ = one_release(mechanism, rows, public=public)
    plain = DenseUpdates(rows / rows.norm(dim=1, keepdim=True)).values.mean(0)
    assert float((release.values["update"] - plain).abs().max()) < 10 / mechanism.steps_per_unit()


def test_rounding_is_unbiased_and_within_its_norm():
    row = torch.tensor([0.3, -1.7, 2.5, 0.0, 0.9], dtype=torch.float64)
    draw = TorchDraws(torch.Generator().manual_seed(0))
    found = torch.stack([round_within(row, 10.0, draw) for _ in range(4000)]).double()
    error = found.std(0) / 4000**0.5
    assert bool(((found.mean(0) - row).abs() <= 4 * error + 1e-12).all())
    limit = 3.4
    tight = torch.stack([round_within(row, limit, draw) for _ in range(200)]).double()
    assert float(tight.norm(dim=1).max()) <= limit
    with pytest.raises(ValueError, match="raise rounding_share"):
        round_within(row, 1.0, draw)


def test_noise_of_the_survivors():
    mechanism, public = prepared(
        8, 2048, clipping_norm=1.0, noise_multiplier=4.0, minimum_survivors=8, bits=30, scale=200.0
    )
    release, _ = one_release(mechanism, torch.zeros(8, 2048), public=public)
    assert_only_this_scale(release.values["update"] * 8, 4.0)
    event = release.events[0]
    assert isinstance(event, SkellamEvent)
    assert event.variance == pytest.approx(16.0)
    assert event.l2 >= 1.0 and event.l2 == pytest.approx(rounded_norm(200.0, 2048, math.exp(-0.5)) / 200.0)


def test_drop_out_leaves_less_noise_and_is_charged_so():
    mechanism, public = prepared(8, 1024, clipping_norm=1.0, noise_multiplier=4.0, minimum_survivors=4, bits=30)
    release, _ = one_release(mechanism, torch.zeros(6, 1024), public=public)
    assert_only_this_scale(release.values["update"] * 8, 4.0 * (6 / 4) ** 0.5)
    assert release.events[0].variance == pytest.approx(16.0 * 6 / 4)
    few, _ = one_release(mechanism, torch.ones(3, 1024), public=public)
    assert few.events == () and float(few.values["update"].abs().sum()) == 0
    assert few.values["update"].shape == (1024,)


def test_the_automatic_scale_keeps_the_sum_inside_the_modulus():
    mechanism, public = prepared(50, 500, clipping_norm=1.0, noise_multiplier=1.0, minimum_survivors=50, bits=16)
    rows = torch.randn(50, 500, generator=torch.Generator().manual_seed(2))
    release, _ = one_release(mechanism, rows, public=public)
    plain = (rows / rows.norm(dim=1, keepdim=True)).mean(0)
    error = release.values["update"] - plain
    assert float(error.std()) == pytest.approx(1.0 / 50, rel=0.2)


def test_single_messages_stay_hidden_and_weights_are_refused():
    messages = IntegerUpdates(torch.zeros(2, 4, dtype=torch.int64), 16)
    for look in (messages.rows, messages.norms):
        with pytest.raises(ValueError, match="only their sum"):
            look()
    with pytest.raises(ValueError, match="uniform weights"):
        messages.weighted_sum(torch.tensor([1.0, 2.0]))


def test_bytes_count_the_padded_coordinates():
    assert Skellam(bits=12).reply_bytes(1000, 4000) == 1024 * 12 // 8
    assert padded(1025) == 2048
