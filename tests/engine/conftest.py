"""Tiny federated data and models, shared by the tests of the engine."""

import numpy as np
import pytest
import torch
from torch import nn

from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.engine.base import Cohort
from fedopt.engine.engine import CohortEngine
from fedopt.models.base import Model
from fedopt.types import Message, Task

SIZES = (7, 12, 1, 20, 5)


class Chain(Model):
    """A hidden layer, or none."""

    hidden: int = 6

    def build(self, task):
        features = int(np.prod(task.input_shape))
        if not self.hidden:
            return nn.Sequential(nn.Flatten(), nn.Linear(features, task.num_outputs))
        layers = [nn.Flatten(), nn.Linear(features, self.hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.hidden, task.num_outputs))


def make_data(kind="classification", shape=(4,), outputs=3, sizes=SIZES, seed=0):
    """Normal inputs; targets of the task's kind; clients own consecutive ranges."""
    draw = np.random.default_rng(seed)
    count = sum(sizes)
    inputs = draw.normal(size=(count, *shape)).astype(np.float32)
    if kind == "regression":
        targets = draw.normal(size=(count, outputs)).astype(np.float32)
    else:
        targets = draw.integers(0, outputs, count)
    lists = np.split(np.arange(count), np.cumsum(sizes)[:-1])
    examples = Examples(inputs, targets)
    return FederatedData(Task(kind, shape, outputs), examples, examples, ClientIndex.from_lists(lists))


def make_cohort(engine, steps, clients=None, versions=1, seed=3):
    """Rows with ``versions`` different starting points."""
    start = engine.initial_parameters()
    points = [
        start + 0.1 * v * torch.sin(torch.arange(len(start), device=start.device).float()) for v in range(versions)
    ]
    clients = tuple(range(len(steps))) if clients is None else tuple(clients)
    messages = tuple(Message({"params": points[i % versions]}, {"version": i % versions}) for i in range(len(steps)))
    return Cohort(clients, tuple(i % 2 for i in range(len(steps))), messages, tuple(steps), seed)


@pytest.fixture
def tiny():
    """Namespace of the builders above."""

    class Tiny:
        data = staticmethod(make_data)
        cohort = staticmethod(make_cohort)
        chain = Chain
        sizes = SIZES

        @staticmethod
        def engine(formulation="loop", model=None, data=None, **options):
            return CohortEngine(model or Chain(), data or make_data(), formulation=formulation, **options)

    return Tiny
