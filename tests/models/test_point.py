"""The point of a black-box task."""

from __future__ import annotations

import pytest
import torch

from fedopt.models.point import Point
from fedopt.types import Task

TASK = Task("black_box", (4000,), 1)


def start(**settings) -> torch.Tensor:
    torch.manual_seed(0)
    return Point(**settings).build(TASK).x.detach()


def test_the_only_parameter_is_x():
    module = Point(center=2.5).build(Task("black_box", (3,), 1))
    assert {name: value.tolist() for name, value in module.named_parameters()} == {"x": [2.5] * 3}


def test_spreads():
    normal, uniform = start(initial="normal", spread=2.0, center=1.0), start(initial="uniform", spread=2.0, center=1.0)
    assert abs(normal.mean().item() - 1) < 4 * 2 / 4000**0.5
    assert abs(normal.std().item() - 2) < 4 * 2 / 8000**0.5
    assert -1 <= uniform.min() < -0.98 and 2.98 < uniform.max() <= 3


def test_it_has_no_outputs():
    with pytest.raises(RuntimeError, match="evaluates its function at the parameter x"):
        Point().build(TASK)(torch.zeros(1))
