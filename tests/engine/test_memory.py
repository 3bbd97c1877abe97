"""Memory of a block is predicted before it is used, and running out leads to smaller blocks."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedopt.engine import memory
from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.engine.select import build
from fedopt.models.base import Model

RULES = {"plain": {}, "momentum": {"momentum": 0.9}, "clipped": {"example_clipping": ExampleClipping(0.5, 0.3)}}


def measured(task, name, rule, rows, steps, width, device):
    """Peak of really allocated tensors (``cpu``) or of those without numbers (``meta``)."""
    place = torch.device(device)
    module = copy.deepcopy(task.module).to(place)
    like = replace(task, module=module, inputs=task.inputs.to(place), targets=task.targets.to(place))
    formulation = build(like, name)
    with memory.MemoryMeter(place) as meter:
        chunk = memory._chunk(like, rule, rows, steps, width, 2)
        if device == "cpu":
            shapes = {name: getattr(chunk, name) for name in ("indices", "rates", "start_index")}
            real = {name: torch.zeros(each.shape, dtype=each.dtype) for name, each in shapes.items()}
            starts = [torch.zeros(task.spec.size) for _ in chunk.starts]
            chunk = replace(chunk, **real, starts=starts, host_indices=chunk.host_indices % len(task.targets))
        formulation.train(chunk)
    return meter.peak


@pytest.mark.parametrize("name", ["loop", "vmap", "batched", "dual"])
@pytest.mark.parametrize("rule", RULES)
def test_prediction_is_what_a_larger_block_takes(tiny, name, rule):
    engine = tiny.engine(name, tiny.chain(hidden=40), tiny.data(shape=(100,)))
    options = LocalRule(torch.zeros(1, 1), **RULES[rule])
    steps = 2 if name in ("loop", "vmap") else 4
    predicted = memory.predict(engine.task, lambda task: build(task, name), options, steps, 6, 2)
    found = measured(engine.task, name, options, 9, steps, 6, "meta")
    assert predicted.bytes(9) == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("name", ["batched", "dual"])
@pytest.mark.parametrize("rule", ["plain", "momentum"])
def test_and_what_a_cpu_really_allocates(tiny, name, rule):
    engine = tiny.engine(name, tiny.chain(hidden=40), tiny.data(shape=(100,)))
    options = LocalRule(torch.zeros(1, 1), **RULES[rule])
    predicted = memory.predict(engine.task, lambda task: build(task, name), options, 4, 6, 2)
    assert predicted.bytes(9) == pytest.approx(measured(engine.task, name, options, 9, 4, 6, "cpu"), rel=0.05)


def test_rows_that_fit():
    assert memory.Prediction(100, 10).rows(205) == 10
    assert memory.Prediction(100, 10).rows(5) == 1


def blocks_of(engine, tiny, monkeypatch, most=None):
    """Rows of every block of a cohort, and the updates; blocks beyond ``most`` rows do not fit."""
    sizes, inner = [], engine.formulation.train

    def train(chunk):
        sizes.append(len(chunk))
        if most is not None and len(chunk) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return inner(chunk)

    monkeypatch.setattr(engine.formulation, "train", train)
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 4))
    plan = engine.plan_batches(cohort, 4)
    rule = LocalRule(torch.full(plan.counts.shape, 0.1))
    return sizes, lambda: engine.train(cohort, rule, plan).updates.rows()


def test_a_budget_makes_blocks_smaller(tiny, monkeypatch):
    expected_sizes, expected = blocks_of(tiny.engine("dual"), tiny, monkeypatch)
    whole = expected()
    prediction = tiny.engine("dual")._blocks.prediction("dual", LocalRule(torch.zeros(1, 1)), 9, 4, 1)
    sizes, small = blocks_of(tiny.engine("dual", memory_bytes=prediction.bytes(2)), tiny, monkeypatch)
    torch.testing.assert_close(small(), whole, rtol=1e-5, atol=1e-6)
    assert expected_sizes == [5] and sorted(sizes) == [1, 2, 2]


class Looking(Model):
    """A module that looks at a value."""

    def build(self, task):
        class Scaled(nn.Module):
            def forward(self, inputs):
                return inputs * (2.0 if inputs.sum().item() > 0 else 1.0)

        return nn.Sequential(Scaled(), nn.Linear(4, task.num_outputs))


def test_a_model_that_cannot_be_predicted_is_trained_all_the_same(tiny):
    engine = tiny.engine("loop", Looking(), memory_bytes=1)
    cohort = tiny.cohort(engine, (2, 2))
    plan = engine.plan_batches(cohort, 4)
    with pytest.warns(RuntimeWarning, match="cannot be predicted"):
        updates = engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1)), plan).updates
    assert updates.rows().norm() > 0


def test_running_out_halves_the_block_and_remembers(tiny, monkeypatch):
    _, expected = blocks_of(tiny.engine("dual"), tiny, monkeypatch)
    sizes, found = blocks_of(tiny.engine("dual"), tiny, monkeypatch, most=2)
    with pytest.warns(RuntimeWarning, match="did not fit the memory of cpu; going on with"):
        rows = found()
    torch.testing.assert_close(rows, expected(), rtol=1e-5, atol=1e-6)
    assert sizes == [5, 3, 2, 1, 2]
    sizes.clear()
    found()
    assert sorted(sizes) == [1, 2, 2]


def test_a_single_client_that_does_not_fit_is_told_what_to_do(tiny, monkeypatch):
    _, found = blocks_of(tiny.engine("dual"), tiny, monkeypatch, most=0)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match=r"(?s)one client's work .*lower\s+client.batch_size"),
    ):
        found()
