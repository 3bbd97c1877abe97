"""Noise of clients: local Gaussian and Laplace, distributed shares."""

from __future__ import annotations

import math

import pytest
import torch
from privacy_cohorts import SeededNoise, assert_only_this_scale, one_release

from fedopt.engine.base import DenseUpdates
from fedopt.privacy.base import ClientContext
from fedopt.privacy.mechanisms._noisy import NoisyUpdates
from fedopt.privacy.mechanisms.distributed_gaussian import DistributedGaussian
from fedopt.privacy.mechanisms.local_gaussian import LocalGaussian
from fedopt.privacy.mechanisms.local_laplace import LocalLaplace
from fedopt.privacy.releases import GaussianEvent, LaplaceEvent
from fedopt.types import Public


def test_local_noise_is_tied_to_twice_the_clipping_norm():
    release, result = one_release(LocalGaussian(clipping_norm=0.5, noise_multiplier=3.0), torch.zeros(4, 10_000))
    assert_only_this_scale(result.parts["update"].rows(), 2 * 3.0 * 0.5)
    assert_only_this_scale(release.values["update"], 2 * 3.0 * 0.5 / 2)  # mean of four
    assert release.events == (GaussianEvent(6.0),)


def test_local_laplace_scale_and_clipping():
    mechanism = LocalLaplace(clipping_norm=2.0, noise_multiplier=0.5)
    release, result = one_release(mechanism, torch.zeros(2, 20_000))
    values = result.parts["update"].rows()
    # E|x| of a Laplace variable is its scale; its standard deviation is the scale too.
    error = 4 * 2.0 / math.sqrt(values.numel())
    assert abs(float(values.abs().mean()) - 2.0) < error
    assert abs(float(values.abs().mean()) - 2.0 * 2 / 3) > error
    assert abs(float(values.square().mean()) / 8.0 - 1) < 4 * math.sqrt(5 / values.numel())
    assert release.events == (LaplaceEvent(1.0, 20_000),)
    quiet = LocalLaplace(clipping_norm=2.0, noise_multiplier=0.0)
    clipped = one_release(quiet, torch.ones(1, 10))[1].parts["update"].rows()
    assert float(clipped.abs().sum()) == pytest.approx(2.0, rel=1e-5)


def test_shares_of_the_fewest_survivors_are_central_noise():
    mechanism = DistributedGaussian(clipping_norm=1.0, noise_multiplier=2.0, minimum_survivors=16)
    release, _ = one_release(mechanism, torch.zeros(16, 10_000))
    assert_only_this_scale(release.values["update"] * 16, 2.0)
    assert mechanism.share_std() * math.sqrt(16) == pytest.approx(2.0)
    assert release.events == (GaussianEvent(2.0),)


def test_more_survivors_carry_and_are_charged_more_noise():
    mechanism = DistributedGaussian(clipping_norm=1.0, noise_multiplier=2.0, minimum_survivors=4)
    release, _ = one_release(mechanism, torch.zeros(16, 10_000))
    assert_only_this_scale(release.values["update"] * 16, 4.0)
    assert release.events == (GaussianEvent(4.0),)
    assert release.facts["noise_std"] == pytest.approx(4.0 / 16)


def test_too_few_survivors_release_nothing():
    mechanism = DistributedGaussian(clipping_norm=1.0, noise_multiplier=2.0, minimum_survivors=3)
    release, _ = one_release(mechanism, torch.ones(2, 5))
    assert release.events == () and float(release.values["update"].abs().sum()) == 0


def test_weighted_replies_are_refused():
    mechanism = DistributedGaussian(clipping_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(ValueError, match=r"every reply to count alike.*for example 2\).*staleness: constant"):
        one_release(mechanism, torch.zeros(2, 5), weights=[1.0, 2.0])


def test_noise_of_a_row_is_the_same_however_it_is_asked_for():
    noise = SeededNoise()
    batch = NoisyUpdates(DenseUpdates(torch.randn(3, 8)), (1.0, 2.0, 3.0), ((1, 0), (1, 1), (1, 2)), noise, 8)
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    assert torch.allclose(batch.weighted_sum(weights), weights.float() @ batch.rows(), atol=1e-5)
    assert torch.equal(batch.take([2, 0]).rows(), batch.rows()[[2, 0]])
    assert torch.allclose(batch.scaled(weights).rows(), batch.rows() * weights.float()[:, None], atol=1e-6)


def test_noise_differs_between_clients_tasks_and_steps():
    mechanism = LocalGaussian(clipping_norm=1.0, noise_multiplier=1.0)
    public = Public(2, 2.0, is_private=True, dimension=1000)
    drawn = []
    for step, tasks in ((1, (0, 0)), (1, (1, 1)), (2, (0, 0))):
        context = ClientContext((0, 1), tasks, step, SeededNoise(), public, (1.0, 1.0))
        drawn.append(mechanism.on_client({"update": DenseUpdates(torch.zeros(2, 1000))}, context, None).parts["update"])
    rows = torch.cat([batch.rows() for batch in drawn])
    correlation = torch.corrcoef(rows) - torch.eye(6)
    assert float(correlation.abs().max()) < 0.2
