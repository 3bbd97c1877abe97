"""Durations drawn per task: their moments, and that moments off by 2/3 or 3/2 are told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.devices.compute.exponential import Exponential
from fedopt.devices.compute.half_normal import HalfNormal
from fedopt.devices.compute.shifted_exponential import ShiftedExponential
from fedopt.devices.compute.truncated_gaussian import TruncatedGaussian
from fedopt.devices.compute.uniform import Uniform
from fedopt.devices.compute.work import Work

# model, local steps, batch, mean, variance: written out from the formulas of the delay card, client 0 (n_0 = 1)
LAWS = [
    (HalfNormal(scale=2.0), 1, 1, 2 * 0.797885, 4 * 0.363380),
    (HalfNormal(scale=1.0, minimum_s=0.5), 9, 9, 0.5 + 0.797885, 0.363380),
    (Exponential(mean_s=3.0), 1, 1, 3.0, 9.0),
    (ShiftedExponential(shift=0.5, rate=0.5, load=3.0), 1, 1, 3 * (0.5 + 2), 9 * 4.0),
    (ShiftedExponential(shift=1.0, rate=2.0, load=0.1, load_per="example"), 4, 5, 2 * 1.5, 4 / 4.0),
    (ShiftedExponential(shift=1.0, rate=2.0, load=0.5, load_per="step"), 4, 5, 2 * 1.5, 4 / 4.0),
    (Uniform(minimum_s=1.0, maximum_s=4.0), 1, 1, 2.5, 9 / 12),
    (TruncatedGaussian(mean_s=0.0, sd_s=1.0, minimum_s=0.0), 1, 1, 0.398942, 0.5 - 0.398942**2),
    (TruncatedGaussian(mean_s=5.0, sd_s=1.0, minimum_s=0.0), 1, 1, 5.0, 1.0),
    (TruncatedGaussian(mean_s=0.0, sd_s=3.0, minimum_s=0.0), 1, 1, 3 * 0.398942, 9 * (0.5 - 0.398942**2)),
    (Work(seconds_per_example=0.01, between_sigma=0.0, within_sigma=0.5), 4, 25, 1.0, math.exp(0.25) - 1),
    (
        Work(seconds_per_example=1.0, between_sigma=0.0, within_sigma=0.0, tail_probability=0.25, tail_factor=5.0),
        1,
        1,
        2.0,
        16 * 0.25 * 0.75,
    ),
]


@pytest.mark.parametrize(("model", "steps", "batch", "mean", "variance"), LAWS, ids=lambda v: getattr(v, "kind", str)())
def test_moments(model, steps, batch, mean, variance, fleet, sample, check_mean):
    times = sample(model, fleet(3), tasks=3000, steps=steps, batch=batch)
    check_mean(times, mean)
    check_mean((times - mean) ** 2, variance)
    expected = model.bind(fleet(3)).expected([steps] * 3, batch)
    assert expected[0] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("model", [law[0] for law in LAWS[:4]], ids=lambda model: model.kind())
def test_scaling_all_times_is_a_scale(model, fleet, sample):
    """Twice the parameters with the dimension of time: exactly twice every draw."""
    doubled = {
        "HalfNormal": lambda: HalfNormal(scale=2 * model.scale, minimum_s=2 * model.minimum_s),
        "Exponential": lambda: Exponential(mean_s=2 * model.mean_s),
        "ShiftedExponential": lambda: model.model_copy(update={"load": 2 * model.load}),
    }[type(model).__name__]()
    np.testing.assert_allclose(sample(doubled, fleet(2), tasks=20), 2 * sample(model, fleet(2), tasks=20), rtol=1e-12)


def test_half_normal_maximum_of_a_round_is_the_cost_of_stragglers(fleet, check_mean):
    bound = HalfNormal().bind(fleet(10))
    slowest = [max(bound.seconds(client, task, 1, 1) for client in range(10)) for task in range(800)]
    check_mean(slowest, 1.88)


def test_shifted_exponential_order_statistic(fleet, check_mean):
    n, k = 6, 4
    bound = ShiftedExponential(shift=0.5, rate=2.0, load=3.0).bind(fleet(n))
    harmonic = [sum(1 / j for j in range(1, m + 1)) for m in range(n + 1)]
    kth = [sorted(bound.seconds(client, task, 1, 1) for client in range(n))[k - 1] for task in range(800)]
    check_mean(kth, 3 * (0.5 + (harmonic[n] - harmonic[n - k]) / 2))


def test_exponential_rates_are_lognormal_between_clients(fleet, sample, check_mean):
    model = Exponential(mean_s=2.0, rate_sigma=1.5)
    expected = np.array(model.bind(fleet(4000)).expected([1] * 4000, 1))
    check_mean(np.log(expected / 2.0) ** 2, 1.5**2)
    assert abs(np.log(expected / 2.0).mean()) < 4 * 1.5 / math.sqrt(4000)
    for client in (0, 3):
        check_mean(sample(model, fleet(4000), tasks=2000, client=client), expected[client])


def test_a_client_keeps_its_rate_when_the_population_grows(fleet):
    small = Exponential(rate_sigma=1.0).bind(fleet(5)).expected([1] * 5, 1)
    assert Exponential(rate_sigma=1.0).bind(fleet(50)).expected([1] * 50, 1)[:5] == small


def test_truncated_gaussian_never_falls_below_and_scales_with_examples(fleet, sample):
    model = TruncatedGaussian(mean_s=0.1, sd_s=1.0, minimum_s=0.05)
    assert sample(model, fleet(3), tasks=200).min() == 0.05
    per_example = model.model_copy(update={"per": "example"})
    many = fleet(3, num_examples=[7, 1, 1])
    np.testing.assert_allclose(sample(per_example, many, tasks=50), 7 * sample(model, many, tasks=50), rtol=1e-12)
    assert per_example.bind(many).expected([1] * 3, 1)[0] == pytest.approx(7 * model.mean())


def test_work_between_clients_has_mean_one(fleet, check_mean):
    model = Work(seconds_per_example=0.5, between_sigma=0.8)
    expected = np.array(model.bind(fleet(8000)).expected([2] * 8000, 3))
    check_mean(expected, 0.5 * 2 * 3)
    check_mean((np.log(expected / 3) + 0.32) ** 2, 0.64)


def test_work_is_proportional_to_steps_and_batch(fleet):
    bound = Work(overhead_s=0.25).bind(fleet(3))
    single = bound.seconds(1, 4, 1, 1) - 0.25
    assert bound.seconds(1, 4, 6, 10) == pytest.approx(0.25 + 60 * single, rel=1e-12)


def test_uniform_flgo_latency_is_whole_and_excludes_the_maximum(fleet):
    bound = Uniform(minimum_s=2.0, maximum_s=5.0, form="flgo_latency").bind(fleet(500))
    found = [bound.seconds(client, 0, 1, 1) for client in range(500)]
    assert sorted(set(found)) == [2, 3, 4]
    assert min(found.count(value) for value in (2, 3, 4)) > 120
    assert bound.seconds(7, 0, 1, 1) == bound.seconds(7, 8, 2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minimum_s": 2.0, "maximum_s": 2.0}, "maximum_s must be > minimum_s = 2.0, got 2.0"),
        ({"minimum_s": 0.5, "maximum_s": 2.0, "form": "flgo_latency"}, "needs whole seconds, got 0.5 and 2.0"),
    ],
)
def test_uniform_bounds_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Uniform(**settings)
