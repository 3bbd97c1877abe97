"""The measured serverless times."""

from __future__ import annotations

import numpy as np
import pytest

from fedopt.devices.compute.lambda_like import QUANTILES, LambdaLike

MEASURED_MEANS = {0.0: 0.703, 0.25: 1.021, 0.5: 1.239, 1.0: 1.837}


@pytest.mark.parametrize("load", sorted(QUANTILES))
def test_the_curve_goes_through_the_measured_quantiles(load):
    from scipy.special import ndtri

    np.testing.assert_allclose(LambdaLike(load=load).quantile(ndtri([0.05, 0.5, 0.9, 0.99, 0.999])), QUANTILES[load])


def test_times_never_exceed_the_rarest_event():
    assert LambdaLike(load=0.5).quantile(np.array([8.0])) == 40.0


@pytest.mark.parametrize("load", sorted(QUANTILES))
def test_mean_is_near_the_measured_one(load, fleet):
    means = LambdaLike(load=load).bind(fleet(500)).expected([1] * 500, 1)
    assert np.mean(means) == pytest.approx(MEASURED_MEANS[load], rel=0.05)


def test_sample_mean_and_median(fleet, check_mean):
    bound = LambdaLike().bind(fleet(60))
    times = np.array([[bound.seconds(client, task, 1, 1) for task in range(30)] for client in range(60)])
    check_mean(times.mean(axis=1), float(np.mean(bound.expected([1] * 60, 1))))
    check_mean(times.ravel() < 0.644, 0.5)


def test_slowness_is_mostly_transient(fleet):
    """Of the variance of the scores, 18 % is the client's, 10 % the round's."""
    bound = LambdaLike().bind(fleet(150))
    times = np.array([[bound.seconds(client, task, 1, 1) for task in range(25)] for client in range(100)])
    ranks = times.ravel().argsort().argsort().reshape(times.shape) / times.size
    share = ranks.mean(axis=1).var() / ranks.var()
    assert 0.12 < share < 0.30


def test_how_much_of_slowness_stays_with_the_client(fleet):
    """Scores of two tasks of a client, the rounds' part being common: 0.081^2 / (0.189^2 - 0.061^2) = 0.205 of it."""
    model, clients = LambdaLike(), 12_000
    scores = np.linspace(-5, 5, 20_001)
    seconds = model.quantile(scores)
    bound = model.bind(fleet(clients))
    times = [[bound.seconds(client, task, 1, 1) for client in range(clients)] for task in (0, 1)]
    found = np.corrcoef(np.interp(times, seconds, scores))[0, 1]
    assert abs(found - 0.205) < 4 / clients**0.5
    assert min(abs(found - wrong) for wrong in (0.205 * 2 / 3, 0.205 * 3 / 2)) > 4 / clients**0.5


def test_other_loads_are_refused():
    with pytest.raises(ValueError, match=r"measured load \(0.0, 0.25, 0.5, 1.0\), got 0.7"):
        LambdaLike(load=0.7)
