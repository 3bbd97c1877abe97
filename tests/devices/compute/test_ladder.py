"""F-X."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from fedopt.devices.compute.ladder import Ladder


def times(fleet, clients: int, **settings) -> list[Fraction]:
    bound = Ladder(**settings).bind(fleet(clients))
    return [bound.seconds(client, 0, 5, 10) for client in range(clients)]


def test_five_clients_of_f80_are_the_golden_case(fleet):
    assert times(fleet, 5, slowdown_percent=80.0) == [1, Fraction(4, 5), Fraction(3, 5), Fraction(2, 5), Fraction(1, 5)]


@pytest.mark.parametrize("percent", [0.0, 12.5, 40.0, 80.0, 99.9])
@pytest.mark.parametrize("clients", [2, 4, 7, 100])
def test_ratio_and_exactness(fleet, percent, clients):
    found = times(fleet, clients, slowdown_percent=percent, slowest_s=0.3)
    assert found[0] == Fraction(3, 10)
    assert found[0] / found[-1] == 1 / (1 - Fraction(str(percent)) / 100)
    denominator = Ladder(slowdown_percent=percent, slowest_s=0.3).denominator(clients)
    assert all((time * denominator).denominator == 1 for time in found)
    assert len({a - b for a, b in pairwise(found)}) == 1, "equal rungs"


def test_expected_times_are_the_times(fleet):
    bound = Ladder().bind(fleet(10))
    assert bound.expected([1] * 10, 1) == [bound.seconds(i, 3, 1, 1) for i in range(10)]


def test_one_client_is_the_slowest(fleet):
    assert times(fleet, 1) == [1]


def test_scaling_the_slowest_scales_all(fleet):
    assert times(fleet, 6, slowest_s=7.0) == [7 * time for time in times(fleet, 6)]


def test_everything_faster_by_100_percent_is_refused():
    with pytest.raises(ValueError, match="less than 100"):
        Ladder(slowdown_percent=100.0)
