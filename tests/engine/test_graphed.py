"""The step that is made for CUDA graphs: run one by one on a CPU it gives the loop's numbers, from buffers only."""

import numpy as np
import pytest
import torch
from device_watch import DeviceWatch
from torch import nn

from fedopt.engine import graphed
from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.models.base import Model


class Deep(Model):
    """Three linear layers, one without bias."""

    def build(self, task):
        features = int(np.prod(task.input_shape))
        middle = [nn.Linear(6, 5, bias=False), nn.Identity(), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), nn.Linear(features, 6), nn.ReLU(), *middle, nn.Linear(5, task.num_outputs))


class Frozen(Model):
    """The first layer stays."""

    def build(self, task):
        made = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, task.num_outputs))
        made[0].weight.requires_grad_(False)
        return made


def train(tiny, formulation, model=None, order="shuffled", kind="classification", vary=True, **rule):
    outputs = 2 if kind == "regression" else 3
    engine = tiny.engine(formulation, model, tiny.data(kind, (2, 2), outputs))
    assert engine.selection.formulation == formulation
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 0), versions=2)
    plan = engine.plan_batches(cohort, 4, order)
    rates = torch.full(plan.counts.shape, 0.2)
    if vary:
        rates = torch.linspace(0.05, 0.3, 5)[:, None] * torch.linspace(1.0, 0.5, plan.counts.shape[1])
    return engine, engine.train(cohort, LocalRule(rates, **rule), plan)


@pytest.mark.parametrize("model", [None, Deep()], ids=["mlp", "deep"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("order", ["shuffled", "sampled", "poisson"])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"vary": False}], ids=["plain", "decay", "one rate"])
def test_equals_loop(tiny, model, kind, order, options):
    _, expected = train(tiny, "loop", model, order, kind, **options)
    engine, found = train(tiny, "graphed", model, order, kind, **options)
    assert isinstance(engine.formulation, graphed.Graphed)
    torch.testing.assert_close(found.updates.rows(), expected.updates.rows(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(found.updates.norms(), expected.updates.norms(), rtol=1e-5, atol=1e-6)


def test_a_second_chunk_leaves_the_first_result_alone(tiny):
    engine, first = train(tiny, "graphed")
    before = first.updates.rows().clone()
    _, again = train(tiny, "graphed", vary=False)
    cohort = tiny.cohort(engine, (2, 2, 2, 2, 2))
    plan = engine.plan_batches(cohort, 4)
    engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.9)), plan)
    assert torch.equal(first.updates.rows(), before) and not torch.equal(again.updates.rows(), before)


def test_a_step_works_on_the_same_buffers_whatever_the_chunk(tiny):
    """What a captured graph needs: equal addresses, one list of operations, nothing asked of the host."""
    engine, _ = train(tiny, "graphed")
    (replay,) = engine.formulation._replays.values()
    buffers = [replay._indices, replay._moves, replay._keeps, replay._counter, *replay.parameters()]
    addresses = [each.data_ptr() for each in buffers]
    cohort = tiny.cohort(engine, (9, 7, 1, 5, 3))
    plan = engine.plan_batches(cohort, 4)
    engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1)), plan)
    assert list(engine.formulation._replays.values()) == [replay]
    assert [each.data_ptr() for each in buffers] == addresses


def test_a_step_never_asks_the_host(tiny):
    engine = tiny.engine("graphed", device="meta")
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 0), versions=2)
    plan = engine.plan_batches(cohort, 4)
    with DeviceWatch() as watch:
        updates = engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1)), plan).updates
        updates.weighted_sum(torch.ones(5, dtype=torch.float64))
    assert not watch.violations and watch.operations > 100


def test_buffers_grow_and_few_are_kept(tiny, monkeypatch):
    monkeypatch.setattr(graphed, "MOST_WIDTHS", 2)
    engine, _ = train(tiny, "graphed")
    for steps, batch in (((1,), 2), ((1, 1), 3), ((20, 1), 3), ((2, 2, 2, 2), 3)):
        cohort = tiny.cohort(engine, steps)
        plan = engine.plan_batches(cohort, batch)
        engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1)), plan)
    assert [(each.width, each.capacity, each.steps) for each in engine.formulation._replays.values()] == [
        (2, 1, 1),
        (3, 4, 32),
    ]


def test_other_rules_fall_back_and_other_models_say_why(tiny):
    engine, found = train(tiny, "graphed", momentum=0.9)
    _, expected = train(tiny, "loop", momentum=0.9)
    torch.testing.assert_close(found.updates.rows(), expected.updates.rows(), rtol=1e-5, atol=1e-6)
    for rule in ({"proximal": 0.1}, {"gradient_clip": 1.0}, {"example_clipping": ExampleClipping(1.0, 0.0)}):
        assert not engine.formulation.supports(LocalRule(torch.zeros(1, 1), **rule))
    frozen = tiny.engine("graphed", Frozen())
    assert frozen.selection.formulation == "loop" and "some parameters are frozen" in frozen.selection.reason
