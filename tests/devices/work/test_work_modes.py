"""How much of the planned work is done."""

from __future__ import annotations

import numpy as np
import pytest

from fedopt.devices.work.epochs_uniform import EpochsUniform
from fedopt.devices.work.fixed_fraction import FixedFraction
from fedopt.devices.work.full import Full
from fedopt.devices.work.partial_uniform import PartialUniform


def steps(model, fleet_, planned: int, client: int = 0, tasks: int = 2000) -> np.ndarray:
    bound = model.bind(fleet_)
    return np.array([bound.steps(client, task, planned) for task in range(tasks)])


def test_full(fleet):
    assert set(steps(Full(), fleet(1), 7, tasks=5)) == {7}


def test_partial_uniform(fleet, check_mean):
    found = steps(PartialUniform(probability=0.8), fleet(1), 5)
    assert set(found) == {1, 2, 3, 4, 5}
    check_mean(found, 0.2 * 5 + 0.8 * (10 + 1) / 5)
    check_mean(found == 1, 0.8 * 2 / 5)  # 0 and 1 both become 1
    assert set(steps(PartialUniform(probability=0.0), fleet(1), 5)) == {5}
    assert set(steps(PartialUniform(probability=1.0), fleet(1), 1, tasks=20)) == {1}


def test_fixed_fraction(fleet, check_mean):
    bound = FixedFraction(low=0.2, high=0.6).bind(fleet(2000))
    found = [bound.steps(client, 0, 1000) for client in range(2000)]
    assert min(found) >= 200 and max(found) < 600
    check_mean(found, 399.5)
    assert bound.steps(3, 0, 1000) == bound.steps(3, 9, 1000)
    assert FixedFraction().bind(fleet(1)).steps(0, 0, 1) == 1


def test_epochs_uniform(fleet, check_mean):
    found = steps(EpochsUniform(low=2, high=6), fleet(1), 10)
    assert set(found) == {20, 30, 40, 50}
    check_mean(found, 35)
    assert len(set(steps(EpochsUniform(redraw=False), fleet(1), 10, tasks=30))) == 1
    assert set(steps(EpochsUniform(low=2, high=3, planned_epochs=4), fleet(1), 40, tasks=5)) == {20}
    assert set(steps(EpochsUniform(low=2, high=3, planned_epochs=4), fleet(1), 10, tasks=5)) == {6}  # 2 * ceil(10 / 4)


def test_bounds_are_checked():
    with pytest.raises(ValueError, match="low must be < high = 4, got 4"):
        EpochsUniform(low=4, high=4)
    with pytest.raises(ValueError, match=r"low must be <= high = 0.3, got 0.5"):
        FixedFraction(low=0.5, high=0.3)
