"""FedScale's speeds and FLGo's latencies."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedopt.devices.compute.lognormal import Lognormal


def test_fedscale_speeds(fleet, check_mean):
    times = np.array(Lognormal().bind(fleet(4000)).expected([3] * 4000, 20))
    logs = np.log(times / (0.005 * 60))
    check_mean(logs, 1.0)
    check_mean((logs - 1.0) ** 2, 0.36)


def test_fedscale_speed_is_fixed_and_proportional_to_work(fleet):
    bound = Lognormal().bind(fleet(3))
    assert bound.seconds(2, 0, 10, 4) == bound.seconds(2, 9, 10, 4) == pytest.approx(40 * bound.seconds(2, 0, 1, 1))


def test_fedscale_speed_has_a_floor(fleet):
    bound = Lognormal(log_mean=-30.0, seconds_per_example=1.0).bind(fleet(2))
    assert bound.seconds(0, 0, 1, 1) == pytest.approx(1e-4)


def test_flgo_latency_has_the_asked_moments(fleet, check_mean):
    """Truncation to whole seconds takes one half off the mean and adds 1/12 to the variance."""
    times = Lognormal(form="flgo_latency", mean_s=100.0, variance_s2=400.0).bind(fleet(4000)).expected([1] * 4000, 1)
    assert all(isinstance(time, Fraction) and time.denominator == 1 for time in times)
    values = np.array(times, dtype=float)
    check_mean(values, 99.5)
    check_mean((values - 99.5) ** 2, 400 + 1 / 12)
