"""Noise of deployments: the right laws, scales, secrecy and repeatability."""

from __future__ import annotations

import math
import stat

import numpy as np
import pytest
import torch
from privacy_cohorts import assert_only_this_scale, one_release
from scipy import stats

from fedopt.privacy.base import Draws, Noise
from fedopt.privacy.mechanisms.gaussian import Gaussian
from fedopt.privacy.mechanisms.local_gaussian import LocalGaussian
from fedopt.privacy.mechanisms.shuffle_vector_sum import ShuffleVectorSum
from fedopt.privacy.mechanisms.skellam import Skellam
from fedopt.privacy.simulated_noise import SimulatedNoise
from fedopt.privacy.system_noise import SystemNoise
from fedopt.types import Public

KEY = bytes(range(32))
SOURCES = {"system": SystemNoise(KEY), "simulated": SimulatedNoise(5)}


@pytest.fixture(params=SOURCES)
def draws(request) -> Draws:
    """A fresh stream of either source."""
    source: Noise = SOURCES[request.param]
    return source.draws("cpu", 1, 2, 3)


def test_normals_have_unit_scale_and_shape(draws):
    values = draws.normal((200, 500))
    assert values.dtype == torch.float32
    assert_only_this_scale(values, 1.0)
    assert abs(float(values.double().mean())) < 4 / math.sqrt(values.numel())
    assert stats.kstest(values.flatten()[:20_000].numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(values.flatten()[:20_000].numpy() * 1.5, "norm").pvalue < 1e-12


def test_uniforms_stay_below_one(draws):
    for dtype in (torch.float32, torch.float64):
        values = draws.uniform((100_000,), dtype)
        assert values.dtype == dtype
        assert float(values.min()) >= 0 and float(values.max()) < 1
        assert stats.kstest(values.double().numpy(), "uniform").pvalue > 1e-4


def test_exponentials(draws):
    values = draws.exponential((50_000,))
    assert stats.kstest(values.numpy(), "expon").pvalue > 1e-4
    assert stats.kstest(values.numpy() * 2 / 3, "expon").pvalue < 1e-12


@pytest.mark.parametrize("rate", [0.3, 4.0, 1e4, 1e9])
def test_poisson_counts(draws, rate):
    values = draws.poisson(rate, (40_000,)).double()
    assert abs(float(values.mean()) - rate) < 4 * math.sqrt(rate / 40_000)
    spread = float(values.var()) / rate
    assert abs(spread - 1) < 4 * math.sqrt((2 + 1 / rate) / 40_000)


@pytest.mark.parametrize(("trials", "probability"), [(1, 0.25), (9, 0.5), (4000, 0.25)])
def test_binomial_counts(draws, trials, probability):
    values = draws.binomial(trials, probability, (40_000,)).double()
    variance = trials * probability * (1 - probability)
    assert float(values.min()) >= 0 and float(values.max()) <= trials
    assert abs(float(values.mean()) - trials * probability) < 4 * math.sqrt(variance / 40_000)
    assert abs(float(values.var()) / variance - 1) < 4 * math.sqrt((2 + 1 / variance) / 40_000)


def test_tables_of_integer_noise_are_the_distributions():
    from fedopt.privacy.system_noise import _binomial_table, _poisson_table

    first, cumulative = _poisson_table(7.5)
    assert np.allclose(cumulative, stats.poisson.cdf(first + np.arange(len(cumulative)), 7.5), atol=1e-14)
    first, cumulative = _binomial_table(300, 0.3)
    assert np.allclose(cumulative, stats.binom.cdf(first + np.arange(len(cumulative)), 300, 0.3), atol=1e-13)
    with pytest.raises(ValueError, match="too wide to sample exactly; lower bits or scale"):
        _poisson_table(1e13)


def test_same_ids_same_noise_and_other_ids_other_noise():
    noise = SystemNoise()
    first = noise.draws("cpu", 0, 7).normal((1000,))
    assert torch.equal(first, noise.draws("cpu", 0, 7).normal((1000,)))
    other = noise.draws("cpu", 0, 8).normal((1000,))
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 4 / math.sqrt(1000)
    stream = noise.draws("cpu", 0, 7)
    assert not torch.equal(stream.normal((1000,)), stream.normal((1000,)))


def test_two_processes_never_share_noise_and_seeds_play_no_part():
    one, two = SystemNoise(), SystemNoise()
    assert not torch.equal(one.draws("cpu", 1).normal((8,)), two.draws("cpu", 1).normal((8,)))
    first = one.example_draws("cpu", "dp_sgd_noise", 3, 1).normal((8,))
    assert not torch.equal(first, two.example_draws("cpu", "dp_sgd_noise", 3, 1).normal((8,)))
    assert torch.equal(first, one.example_draws("cpu", "dp_sgd_noise", 3, 1).normal((8,)))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one.draws("cpu", 2).normal((8,))
    assert torch.equal(before, torch.random.get_rng_state())


def test_key_file_is_private_and_survives_a_restart(tmp_path):
    path = tmp_path / "noise.key"
    first = SystemNoise.from_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = SystemNoise.from_file(path)
    assert torch.equal(first.draws("cpu", 1).normal((4,)), again.draws("cpu", 1).normal((4,)))
    assert repr(first) == "SystemNoise()"
    with pytest.raises(ValueError, match="has 32 bytes, got 5"):
        SystemNoise(b"short")


def test_mechanisms_add_system_noise_of_their_scale():
    rows = torch.zeros(4, 20_000)
    release, _ = one_release(Gaussian(clipping_norm=2.0, noise_multiplier=1.5), rows, noise=SystemNoise(KEY))
    assert_only_this_scale(release.values["update"], 1.5 * 2.0 / 4)
    release, _ = one_release(LocalGaussian(clipping_norm=1.0, noise_multiplier=0.5), rows, noise=SystemNoise(KEY))
    assert_only_this_scale(release.values["update"], 2 * 0.5 * 1.0 * math.sqrt(4) / 4)


def test_integer_mechanisms_add_system_noise_of_their_scale():
    rows, public = torch.zeros(20, 4096), Public(20, 20.0, is_private=True, dimension=4096)
    mechanism = Skellam(clipping_norm=1.0, noise_multiplier=0.5, minimum_survivors=20).prepared(None, public)
    release, _ = one_release(mechanism, rows, noise=SystemNoise(KEY), public=public)
    rounding = 20 * 0.25 / mechanism.steps_per_unit() ** 2  # stochastic rounding adds at most this variance
    std = release.facts["noise_std"]
    assert rounding / 400 < 1e-3 * std**2
    assert_only_this_scale(release.values["update"], std)
    shuffled = ShuffleVectorSum(clipping_norm=1.0, bits=400, minimum_clients=20, largest_dimension=5000).prepared(
        None, public
    )
    release, _ = one_release(shuffled, rows, noise=SystemNoise(KEY), public=public)
    assert float(release.values["update"].mean().abs()) < 5 * release.facts["noise_std"] / 64
    assert 0.9 < float(release.values["update"].std()) / release.facts["noise_std"] < 1.4  # rounding adds to it
