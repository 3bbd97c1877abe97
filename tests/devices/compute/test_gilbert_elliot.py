"""Bursts of slow tasks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedopt.devices.compute.constant import Constant
from fedopt.devices.compute.gilbert_elliot import GilbertElliot
from fedopt.devices.compute.half_normal import HalfNormal

MODEL = GilbertElliot(base=Constant(seconds=(0.5,)), enter=0.1, leave=0.4, factor=4.5)


def slow(fleet, clients: int = 1000, tasks: int = 10) -> np.ndarray:
    bound = MODEL.bind(fleet(clients))
    return np.array([[bound.is_slow(client, task) for task in range(tasks)] for client in range(clients)])


def test_share_and_burst_length(fleet, check_mean):
    states = slow(fleet)
    check_mean(states.mean(axis=1), 0.2)
    check_mean(states[:, 0], 0.2)
    check_mean(states[:, 1:][states[:, :-1]], 0.6)  # a burst of mean 1 / 0.4 goes on with probability 0.6
    check_mean(states[:, 1:][~states[:, :-1]], 0.1)


def test_times_are_base_or_factor_times_base_and_exact(fleet):
    bound = MODEL.bind(fleet(40))
    for client in range(40):
        time = bound.seconds(client, 3, 1, 1)
        assert time == (Fraction("2.25") if bound.is_slow(client, 3) else Fraction(1, 2))
        assert (time * MODEL.denominator(40)).denominator == 1


def test_mean_time(fleet, check_mean):
    model = MODEL.model_copy(update={"base": HalfNormal()})
    bound = model.bind(fleet(1500))
    expected = bound.expected([1] * 1500, 1)[0]
    assert expected == pytest.approx(0.797885 * (1 + 0.2 * 3.5), rel=1e-5)
    check_mean([bound.seconds(client, 20, 1, 1) for client in range(1500)], expected)


def test_base_draws_do_not_change(fleet):
    bursts, plain = MODEL.model_copy(update={"base": HalfNormal()}).bind(fleet(5)), HalfNormal().bind(fleet(5))
    for task in range(20):
        factor = 4.5 if bursts.is_slow(2, task) else 1.0
        assert bursts.seconds(2, task, 1, 1) == factor * plain.seconds(2, task, 1, 1)


def test_endless_alternation_is_refused():
    with pytest.raises(ValueError, match="alternates forever"):
        GilbertElliot(enter=1.0, leave=1.0)
