"""Explicit times."""

from __future__ import annotations

from fractions import Fraction

import pytest

from fedopt.components import build
from fedopt.devices.compute.constant import Constant


def test_decimals_and_ratios_are_exact(fleet):
    model = Constant(seconds=(0.1, "1/3", 2))
    bound = model.bind(fleet(3))
    assert [bound.seconds(i, 9, 4, 4) for i in range(3)] == [Fraction(1, 10), Fraction(1, 3), 2]
    assert model.denominator(3) == 30


def test_a_single_number_is_for_everybody(fleet):
    problems: list = []
    model = build("fedopt.devices.compute", {"kind": "constant", "seconds": 0.25}, (), problems)
    assert problems == []
    assert model.bind(fleet(4)).expected([1] * 4, 1) == [Fraction(1, 4)] * 4


def test_per_step_is_the_four_worker_cluster(fleet):
    bound = Constant(seconds=(0.58, 0.75, 1.51, 3.33), per_step=True).bind(fleet(4))
    assert bound.expected([10, 10, 1, 2], 8) == [Fraction("5.8"), Fraction("7.5"), Fraction("1.51"), Fraction("6.66")]


def test_wrong_number_of_times_says_so(fleet):
    with pytest.raises(ValueError, match="2 times for 3 clients; give one, or one per client"):
        Constant(seconds=(1.0, 2.0)).bind(fleet(3))


@pytest.mark.parametrize("wrong", ["soon", "1/0", -1.0, float("nan"), float("inf")])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Constant(seconds=(wrong,))
