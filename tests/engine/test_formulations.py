"""Every formulation gives the loop's numbers, for every local rule and kind of batch."""

import numpy as np
import pytest
import torch
from torch import nn

from fedopt.engine.base import BatchPlan, ExampleClipping, LocalRule
from fedopt.models.base import Model

RULES = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.8, "nesterov": True},
    "proximal": {"proximal": 0.7},
    "everything": {"momentum": 0.7, "nesterov": True, "weight_decay": 0.05, "proximal": 0.3},
    "momentum, decay, proximal": {"momentum": 0.7, "weight_decay": 0.05, "proximal": 0.3},
    "gradient clip": {"gradient_clip": 0.3, "momentum": 0.5, "weight_decay": 0.1},
    "example clip": {"example_clipping": ExampleClipping(0.5, 0.0)},
    "example clip per layer": {"example_clipping": ExampleClipping(0.5, 0.0, per_layer=(0.2, 0.1, 0.3, 0.05))},
    "automatic clip with noise": {"example_clipping": ExampleClipping(0.5, 0.2, style="automatic")},
    "noise and momentum": {"example_clipping": ExampleClipping(0.5, 0.3), "momentum": 0.5, "weight_decay": 0.1},
}


class Mixed(Model):
    """A chain with several parameter-free layers, and a layer without bias."""

    def build(self, task):
        features = int(np.prod(task.input_shape))
        layers = [nn.Flatten(), nn.Linear(features, 5, bias=False), nn.Tanh(), nn.Linear(5, 6), nn.ReLU(), nn.GELU()]
        return nn.Sequential(*layers, nn.Sequential(nn.Linear(6, task.num_outputs)))


def assert_close(found, expected, tolerance=1e-5):
    """Relative difference of rows, against the largest row."""
    error = (found - expected).norm(dim=1).max() / expected.norm(dim=1).max()
    assert error <= tolerance, f"relative error {error:.2e}"


def trained(tiny, formulation, rule, order="shuffled", steps=(3, 6, 2, 9, 0), versions=2, **engine_options):
    engine = tiny.engine(formulation, **engine_options)
    assert engine.selection.formulation == formulation
    cohort = tiny.cohort(engine, steps, versions=versions)
    plan = engine.plan_batches(cohort, 4, order)
    rates = torch.linspace(0.05, 0.3, len(steps))[:, None].expand(plan.counts.shape)
    options = dict(rule)
    if options.pop("correct", False):
        draw = torch.Generator().manual_seed(0)
        options["correction"] = 0.1 * torch.randn(len(steps), engine.spec.size, generator=draw)
    if not options.pop("vary", True):
        rates = torch.full(plan.counts.shape, 0.2)
    return engine.train(cohort, LocalRule(rates, **options), plan)


@pytest.mark.parametrize("formulation", ["vmap", "batched", "dual"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("vary", [True, False])
def test_equals_loop(tiny, formulation, name, vary):
    rule = {**RULES[name], "vary": vary}
    expected, found = trained(tiny, "loop", rule), trained(tiny, formulation, rule)
    assert_close(found.updates.rows(), expected.updates.rows())
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("formulation", ["vmap", "batched", "dual"])
@pytest.mark.parametrize("order", ["sampled", "poisson"])
@pytest.mark.parametrize("chunk", [1, 2, "auto"])
def test_orders_and_chunks(tiny, formulation, order, chunk):
    rule = {"weight_decay": 0.1, "momentum": 0.3, "correct": True}
    expected = trained(tiny, "loop", rule, order)
    found = trained(tiny, formulation, rule, order, chunk=chunk)
    assert_close(found.updates.rows(), expected.updates.rows())


@pytest.mark.parametrize("formulation", ["vmap", "batched", "dual"])
@pytest.mark.parametrize("kind, outputs", [("classification", 4), ("regression", 2)])
@pytest.mark.parametrize("hidden", [0, 6, "mixed"])
def test_models_and_tasks(tiny, formulation, kind, outputs, hidden):
    model = Mixed() if hidden == "mixed" else tiny.chain(hidden=hidden)
    options = {"model": model, "data": tiny.data(kind, (2, 3), outputs)}
    for rule in ({}, {"momentum": 0.5, "proximal": 0.2}):
        expected, found = trained(tiny, "loop", rule, **options), trained(tiny, formulation, rule, **options)
        assert_close(found.updates.rows(), expected.updates.rows())


@pytest.mark.parametrize("formulation", ["batched", "dual"])
@pytest.mark.parametrize("rule", [{}, {"weight_decay": 0.3, "momentum": 0.5}], ids=["plain", "decay"])
def test_linear_operations_agree_with_rows(tiny, formulation, rule):
    """Sums, norms, scaling and selection without building rows are those of the rows."""
    updates = trained(tiny, formulation, rule, chunk=2).updates
    rows = updates.rows()
    weights = torch.tensor([0.5, -1.0, 2.0, 0.0, 3.0])
    torch.testing.assert_close(updates.weighted_sum(weights), weights @ rows, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(updates.norms(), rows.norm(dim=1), rtol=1e-5, atol=1e-7)
    scaled = updates.scaled(weights)
    torch.testing.assert_close(scaled.rows(), rows * weights[:, None], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled.norms(), rows.norm(dim=1) * weights.abs(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled.weighted_sum(weights), weights.square() @ rows, rtol=1e-5, atol=1e-6)
    for index in ([3, 0], [1], [4, 3, 2, 1, 0]):
        taken = updates.take(index)
        assert len(taken) == len(index)
        torch.testing.assert_close(taken.rows(), rows[index], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            taken.weighted_sum(weights[index]), weights[index] @ rows[index], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual"])
def test_same_bits_again(tiny, formulation):
    first, second = (trained(tiny, formulation, RULES["everything"]).updates.rows() for _ in range(2))
    assert torch.equal(first, second)


def test_norm_is_not_finite_where_a_row_is_not(tiny):
    engine = tiny.engine("dual")
    cohort = tiny.cohort(engine, (2, 2))
    plan = engine.plan_batches(cohort, 4)
    updates = engine.train(cohort, LocalRule(torch.tensor([[float("inf")] * 2, [0.1] * 2])), plan).updates
    assert torch.isfinite(updates.norms()).tolist() == [False, True]


def test_empty_poisson_batches_still_decay_and_get_noise(tiny):
    """A step without examples applies weight decay, in all formulations."""
    for formulation in ("loop", "vmap", "batched", "dual"):
        engine = tiny.engine(formulation)
        cohort = tiny.cohort(engine, (2,))
        empty = BatchPlan(
            np.zeros((1, 2, 0), np.int64), np.zeros((1, 2), np.int64), np.array([2]), np.full((1, 2), 3.0)
        )
        result = engine.train(cohort, LocalRule(torch.full((1, 2), 0.5), weight_decay=0.2), empty)
        expected = engine.initial_parameters() * (0.9**2 - 1.0)
        torch.testing.assert_close(result.updates.rows()[0], expected, rtol=1e-5, atol=1e-7)
        assert torch.isnan(result.losses).all()


def test_having_no_examples_does_not_show_where_nothing_may_depend_on_them(tiny):
    """Fixed probability, denominator and steps: a client without examples makes its steps, with their noise."""
    found = {}
    for formulation in ("loop", "vmap", "batched", "dual"):
        engine = tiny.engine(formulation, data=tiny.data(sizes=(0, 3)))
        cohort = tiny.cohort(engine, (2,), clients=(0,))
        plan = engine.plan_batches(cohort, 4, "poisson", sampling_probability=0.5, denominator=4.0)
        assert plan.steps.tolist() == [2] and plan.counts.tolist() == [[0, 0]]
        rule = LocalRule(torch.full((1, 2), 0.5), example_clipping=ExampleClipping(0.5, 0.2))
        found[formulation] = engine.train(cohort, rule, plan).updates.rows()[0]
        size = float(found[formulation].std())
        assert 0.5 < size / (0.5 * 0.2 / 4.0 * 2**0.5) < 1.5  # two steps of rate 0.5, noise 0.2 over 4
        torch.testing.assert_close(found[formulation], found["loop"], rtol=1e-4, atol=1e-6)
    blind = tiny.engine(data=tiny.data(sizes=(0, 3)))
    assert blind.plan_batches(tiny.cohort(blind, (2,), clients=(0,)), 4, "poisson").steps.tolist() == [0]
