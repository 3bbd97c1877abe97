"""Bytes over bandwidths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.devices.network.bandwidth import Bandwidth
from fedopt.devices.network.bandwidth_lognormal import BandwidthLognormal
from fedopt.devices.network.bandwidth_uniform import BandwidthUniform
from fedopt.devices.network.none import NONE

MEGABYTE = 1_000_000


def test_a_megabyte_is_eight_megabit(fleet):
    bound = Bandwidth(download_mbit_s=80.0, upload_mbit_s=16.0, latency_s=0.05).bind(fleet(1))
    assert bound.seconds(0, 0, MEGABYTE, 2 * MEGABYTE) == pytest.approx((0.15, 1.05))


def test_nothing_sent_takes_no_time(fleet):
    assert Bandwidth(latency_s=3.0).bind(fleet(1)).seconds(0, 0, 0, 0) == (0, 0)
    assert NONE().bind(fleet(1)).seconds(0, 0, MEGABYTE, MEGABYTE) == (0, 0)


def test_lognormal_between_and_within(fleet, check_mean):
    model = BandwidthLognormal(download_mbit_s=8.0, upload_mbit_s=4.0, between_sigma=0.5, within_sigma=0.3)
    bound = model.bind(fleet(4000))
    down, up = np.array([bound.seconds(client, 0, MEGABYTE, MEGABYTE) for client in range(4000)]).T
    np.testing.assert_allclose(up, 2 * down)
    check_mean(down, math.exp((0.25 + 0.09) / 2))
    check_mean(np.log(down) ** 2, 0.34)
    tasks = np.log([bound.seconds(7, task, MEGABYTE, 0)[0] for task in range(1500)])
    check_mean((tasks - tasks.mean()) ** 2, 0.09)


def test_uniform_range_and_mean_time(fleet, check_mean):
    bound = BandwidthUniform(technology="4g").bind(fleet(3000))
    times = np.array([bound.seconds(client, client, MEGABYTE, 0)[0] for client in range(3000)])
    assert 0.08 <= times.min() < 0.0805 and 0.38 < times.max() <= 0.4
    check_mean(times, 8 * math.log(5) / 80)
    check_mean(8 / times, 60)
    assert bound.seconds(5, 0, 100, 100) == bound.seconds(5, 9, 100, 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"technology": "wifi", "low_mbit_s": 3.0}, "need technology: custom, got wifi"),
        ({"technology": "custom"}, "needs low_mbit_s <= high_mbit_s, got None and None"),
        ({"technology": "custom", "low_mbit_s": 5.0, "high_mbit_s": 2.0}, "got 5.0 and 2.0"),
    ],
)
def test_uniform_range_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        BandwidthUniform(**settings)
    assert BandwidthUniform(technology="custom", low_mbit_s=1.0, high_mbit_s=2.0).range_mbit_s() == (1.0, 2.0)
