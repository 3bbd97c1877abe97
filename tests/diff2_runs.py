"""DIFF2 without a server: the real aggregator, mechanism and local work, on twelve examples or a made-up objective."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch
from privacy_cohorts import SeededNoise
from torch import nn

from fedopt.aggregators.diff2 import Diff2 as Method
from fedopt.clients.gradient_difference import GradientDifference
from fedopt.data.base import ClientIndex
from fedopt.engine.base import Cohort, DenseUpdates
from fedopt.engine.flat_module import spec_of
from fedopt.privacy.base import ClientContext
from fedopt.privacy.mechanisms.diff2 import GRADIENT, SLOPE, Diff2
from fedopt.types import Public


def setting(restart_every):
    return SimpleNamespace(aggregator=SimpleNamespace(restart_every=restart_every))


def twelve_examples():
    """Twelve examples of a small softplus network over three clients of four."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1))
    inputs, targets = torch.randn(12, 3), torch.randn(12, 1)
    task = SimpleNamespace(
        module=module,
        spec=spec_of(module),
        inputs=inputs,
        targets=targets,
        loss=lambda outputs, wanted: (outputs - wanted).square().mean(1),
    )
    clients = ClientIndex.from_lists([np.arange(4), np.arange(4, 8), np.arange(8, 12)])
    return SimpleNamespace(device=torch.device("cpu"), data=SimpleNamespace(clients=clients), task=task)


PUBLIC = Public(3, 3.0, is_private=True, num_examples=np.array([4, 4, 4]), dimension=21)


def full_gradient(engine, point):
    from torch.func import functional_call, grad

    task = engine.task

    def loss(flat):
        return task.loss(functional_call(task.module, task.spec.unflatten(flat), (task.inputs,)), task.targets).mean()

    return grad(loss)(point)


def run(engine, rounds, every, work=None, mechanism=None, lost=(), seed=0, public=PUBLIC, lr=0.1, start=None):
    """Iterates and estimates of a run, clients computed by the real local work."""
    work = work or GradientDifference(examples_at_once=3)
    mechanism = mechanism or Diff2(
        clipping_norm=math.inf, difference_clipping_norm=math.inf, noise_multiplier=0.0, difference_noise_multiplier=0.0
    )
    method = Method(restart_every=every, server_lr=lr)
    state = method.init(torch.linspace(-1, 1, engine.task.spec.size) if start is None else start, public)
    states, own = [], mechanism.init(engine.task.spec.size, public)
    for step in range(1, rounds + 1):
        clients = tuple(c for c in range(public.num_clients) if (step, c) not in lost)
        message = method.payload(state, 0, None)
        cohort = Cohort(clients, (step,) * len(clients), (message,) * len(clients), (1,) * len(clients), 0)
        reply = work.work(cohort, engine)
        context = ClientContext(clients, cohort.tasks, step, SeededNoise(seed), public, (1.0,) * len(clients))
        parts = mechanism.on_client(reply.parts, context, None).parts
        batch = SimpleNamespace(
            metas=clients,
            weights=(1.0,) * len(clients),
            part=lambda name, parts=parts: parts[name],
            bound=lambda name: mechanism.bound(name, None, public),
        )
        reduced = method.reduce(state, batch, public)
        due = mechanism.next_events(own, public)
        release = mechanism.release(reduced, len(clients), step, own, SeededNoise(seed), public)
        if mechanism._restart_every:  # it was prepared, so it knows the schedule
            assert release.events in (due, ())  # what was announced is what is charged
        own, state = release.state, method.step(state, release.values, public).state
        states.append(state)
    return states


class Bowl:
    """Local work on a quadratic of curvatures 0.1 ... 1: every client has the same gradient."""

    def __init__(self, dimension):
        self.curvature = torch.linspace(0.1, 1.0, dimension)

    def work(self, cohort, engine):
        found = []
        for message in cohort.messages:
            point, before = message.parts["params"], message.parts.get("previous")
            apart = point if message.config["restart"] else (point - before) / (point - before).norm()
            found.append(self.curvature * apart)
        name = GRADIENT if cohort.messages[0].config["restart"] else SLOPE
        return SimpleNamespace(parts={name: DenseUpdates(torch.stack(found))})


def bowl(dimension):
    """An engine and public facts for runs on ``Bowl``: nothing but the dimension is asked for."""
    public = Public(3, 3.0, is_private=True, num_examples=np.array([4, 4, 4]), dimension=dimension)
    return SimpleNamespace(task=SimpleNamespace(spec=SimpleNamespace(size=dimension))), public


def clipped(mechanism):
    return GradientDifference(examples_at_once=3).protected(mechanism.example_clipping())
