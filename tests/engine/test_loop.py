"""The loop against torch.optim.SGD and against arithmetic by hand: it is the oracle of everything else."""

import copy

import pytest
import torch
from torch import nn

from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.engine.rules import clipping_factors
from fedopt.rng import torch_generator

OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"weight_decay": 0.1, "momentum": 0.5},
}


def flat(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def by_optimizer(engine, plan, row, before_step=lambda module, start: None, **options):
    """End minus start of one row with the library's optimiser."""
    module = copy.deepcopy(engine.module)
    start = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2, **options)
    for step in range(plan.steps[row]):
        indices = torch.from_numpy(plan.indices[row, step, : plan.counts[row, step]])
        optimizer.zero_grad()
        inputs = torch.from_numpy(engine.data.train.inputs)[indices]
        nn.functional.cross_entropy(module(inputs), torch.from_numpy(engine.data.train.targets)[indices]).backward()
        before_step(module, start)
        optimizer.step()
    return flat(module) - torch.cat([p.reshape(-1) for p in start])


def setting(tiny, **options):
    engine = tiny.engine("loop")
    cohort = tiny.cohort(engine, (4, 6, 1, 10, 0))
    plan = engine.plan_batches(cohort, 4)
    return engine, cohort, plan, LocalRule(torch.full(plan.counts.shape, 0.2), **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_optimizer_of_torch(tiny, options):
    engine, cohort, plan, rule = setting(tiny, **options)
    found = engine.train(cohort, rule, plan).updates.rows()
    for row in range(len(cohort)):
        torch.testing.assert_close(found[row], by_optimizer(engine, plan, row, **options), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", [0.25, 1e3])
def test_proximal_correction_and_clip_in_the_documented_order(tiny, bound):
    engine, cohort, plan, _ = setting(tiny)
    correction = torch.linspace(-0.1, 0.1, engine.spec.size)
    options = {"proximal": 0.8, "gradient_clip": bound, "correction": correction.expand(len(cohort), -1)}
    rule = LocalRule(torch.full(plan.counts.shape, 0.2), **options)

    def before_step(module, start):
        pieces = correction.split([p.numel() for p in module.parameters()])
        for parameter, first, piece in zip(module.parameters(), start, pieces, strict=True):
            parameter.grad += 0.8 * (parameter.detach() - first) + piece.view_as(parameter)
        nn.utils.clip_grad_norm_(module.parameters(), bound)

    found = engine.train(cohort, rule, plan).updates.rows()
    for row in range(len(cohort)):
        torch.testing.assert_close(found[row], by_optimizer(engine, plan, row, before_step), rtol=1e-4, atol=1e-6)


def test_clipping_factors_by_hand():
    """min(1, C / norm), and C / (norm + gamma) in the automatic style; a norm that is not finite counts for nothing."""
    norms = torch.tensor([0.0, 0.5, 1.5, 4.0, torch.inf, torch.nan])
    flat = clipping_factors(ExampleClipping(2.0, 0.0), norms, 2.0)
    assert flat.tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    automatic = clipping_factors(ExampleClipping(2.0, 0.0, style="automatic", stability=0.5), norms, 2.0)
    assert automatic.tolist() == pytest.approx([4.0, 2.0, 1.0, 2 / 4.5, 0.0, 0.0])


def test_example_clipping_bounds_every_example(tiny):
    """One step, no noise: the update is the rate times at most count * C / denominator, and examples are clipped."""
    engine, cohort, plan, _ = setting(tiny)
    one = torch.full(plan.counts.shape, 0.2)
    rule = LocalRule(one, example_clipping=ExampleClipping(1e-3, 0.0))
    cohort = tiny.cohort(engine, (1,) * 5)
    plan = engine.plan_batches(cohort, 4)
    found = engine.train(cohort, LocalRule(one[:, :1], example_clipping=rule.example_clipping), plan).updates.norms()
    assert (found <= 0.2 * 1e-3 * (1 + 1e-5)).all() and (found > 0.2 * 1e-3 * 0.2).all()
    free = engine.train(cohort, LocalRule(one[:, :1], example_clipping=ExampleClipping(1e6, 0.0)), plan).updates.rows()
    plain = engine.train(cohort, LocalRule(one[:, :1]), plan).updates.rows()
    torch.testing.assert_close(free, plain, rtol=1e-5, atol=1e-7)


def test_noise_is_the_named_stream_over_the_denominator(tiny):
    """Difference of a noisy and a noiseless first step = rate * std * stream / denominator, exactly this stream."""
    engine = tiny.engine("loop")
    cohort = tiny.cohort(engine, (1, 1, 1))
    plan = engine.plan_batches(cohort, 4, "poisson", denominator=7.0)
    rates = torch.full((3, 1), 0.5)
    quiet, noisy = (
        engine.train(cohort, LocalRule(rates, example_clipping=ExampleClipping(1.0, std)), plan).updates.rows()
        for std in (0.0, 3.0)
    )
    for row in range(3):
        stream = torch_generator("cpu", cohort.seed, "dp_sgd_noise", cohort.clients[row], cohort.tasks[row])
        expected = -0.5 * 3.0 / 7.0 * torch.randn(engine.spec.size, generator=stream)
        torch.testing.assert_close(noisy[row] - quiet[row], expected, rtol=1e-4, atol=1e-5)


def test_losses_are_means_over_steps(tiny):
    engine, cohort, plan, _ = setting(tiny)
    still = LocalRule(torch.zeros(plan.counts.shape))
    losses = engine.train(cohort, still, plan).losses
    everything = engine.example_losses(engine.initial_parameters()[None], torch.arange(45)[None])[0]
    means = [everything[plan.indices[1, s, : plan.counts[1, s]]].mean() for s in range(6)]
    torch.testing.assert_close(losses[1], torch.stack(means).mean())
    assert torch.isnan(losses[4])
