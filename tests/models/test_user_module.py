"""A user's own module."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from fedopt.models.user_module import UserModule
from fedopt.types import Task

TASK = Task("classification", (6,), 3)


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """An importable module ``my_models``."""
    module = types.ModuleType("my_models")
    module.fixed = lambda: torch.nn.Linear(6, 3)
    module.sized = lambda task, hidden=4: torch.nn.Sequential(
        torch.nn.Linear(task.input_shape[0], hidden), torch.nn.Linear(hidden, task.num_outputs)
    )
    module.wrong_width = lambda: torch.nn.Linear(6, 5)
    module.wrong_input = lambda: torch.nn.Linear(7, 3)
    module.nothing = torch.nn.Identity
    module.number = lambda: 3
    monkeypatch.setitem(sys.modules, "my_models", module)


def test_factories_with_and_without_task():
    assert UserModule(factory="my_models:fixed").build(TASK).out_features == 3
    built = UserModule(factory="my_models:sized", arguments={"hidden": 9}).build(TASK)
    assert built[0].weight.shape == (9, 6)
    assert built.training


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("my_models:gone", {}, "cannot import model.factory my_models:gone"),
        ("no_such_package:x", {}, "cannot import model.factory no_such_package:x: No module named"),
        ("my_models:fixed", {"depth": 2}, "cannot be called with {'depth': 2}"),
        ("my_models:number", {}, "must return an nn.Module, got int"),
        ("my_models:nothing", {}, "has no parameters to train"),
        ("my_models:wrong_width", {}, r"must map \(2, 6\) to \(2, 3\), it gives \(2, 5\)"),
        ("my_models:wrong_input", {}, r"fails on \(2, 6\)"),
    ],
)
def test_what_cannot_be_used_is_said(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        UserModule(factory=factory, arguments=arguments).build(TASK)


@pytest.mark.parametrize("name", ["my_models", ":fixed", "my_models:"])
def test_names_need_both_parts(name):
    with pytest.raises(ValueError, match=r'must be "package.module:name"'):
        UserModule(factory=name)


def test_trying_it_leaves_the_random_stream_alone(monkeypatch):
    sys.modules["my_models"].noisy = lambda: torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Dropout(0.5))
    torch.manual_seed(0)
    torch.nn.Linear(6, 3)
    expected = torch.rand(1)
    torch.manual_seed(0)
    UserModule(factory="my_models:noisy").build(TASK)
    assert torch.equal(torch.rand(1), expected)
