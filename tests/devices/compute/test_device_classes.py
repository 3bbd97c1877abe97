"""Device classes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedopt.devices.compute.device_classes import DeviceClasses


def test_times_are_those_of_the_classes(fleet):
    model = DeviceClasses(fastest_s=2.0)
    times = model.bind(fleet(50)).expected([1] * 50, 1)
    assert set(times) == {Fraction(2), Fraction("3.625"), Fraction("23.25")}
    assert all((time * model.denominator(50)).denominator == 1 for time in times)


def test_shares_follow_the_proportions(fleet, check_mean):
    classes = DeviceClasses(proportions=(5.0, 3.0, 2.0)).classes(fleet(3000))
    for number, share in enumerate((0.5, 0.3, 0.2)):
        check_mean(classes == number, share)


def test_blocks_are_contiguous(fleet):
    classes = DeviceClasses(proportions=(0.5, 0.25, 0.25), assignment="blocks").classes(fleet(8))
    assert classes.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


def test_a_class_without_share_is_empty(fleet):
    assert set(np.unique(DeviceClasses(proportions=(1.0, 0.0, 1.0)).classes(fleet(200)))) == {0, 2}


def test_per_step_multiplies(fleet):
    bound = DeviceClasses(assignment="blocks", per="step").bind(fleet(3))
    assert bound.expected([4, 2, 8], 1) == [4, Fraction("3.625"), 93]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relative_times": (1.0, 2.0)}, "one proportion per relative time, got 3 for 2"),
        ({"relative_times": (1.0, 0.0, 2.0)}, "relative_times must be > 0"),
        ({"proportions": (0.0, 0.0, 0.0)}, "positive sum"),
    ],
)
def test_settings_must_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        DeviceClasses(**settings)
