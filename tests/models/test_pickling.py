"""Modules whose classes are made late can still be pickled, for workers in other processes."""

from __future__ import annotations

import pickle

import pytest
import torch

from fedopt.components import component
from fedopt.types import Task

TEXT = Task("next_token", (5,), 7)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("char_lstm", TEXT),
        ("transformer", TEXT),
        ("resnet_groupnorm", Task("classification", (1, 8, 8), 2)),
        ("point", Task("black_box", (3,), 1)),
    ],
)
def test_a_pickled_module_comes_back(kind, task):
    module = component("fedopt.models", kind)().build(task)
    copied = pickle.loads(pickle.dumps(module))
    assert type(copied) is type(module)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), copied.parameters(), strict=True))
