"""One record whose gradient overflows counts as zero under example clipping, and never reaches another client."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedopt.engine.base import ExampleClipping, LocalRule

BOUND = 0.5
CLIPPINGS = {
    "flat": ExampleClipping(BOUND, 0.0),
    "automatic": ExampleClipping(BOUND, 0.0, style="automatic"),
    "per layer": ExampleClipping(BOUND, 0.0, per_layer=(0.3, 0.2, 0.3, np.sqrt(BOUND**2 - 0.22))),
}
VALUES = {"overflowing": 3e38, "infinite": np.inf, "not a number": np.nan}
FORMULATIONS = ["loop", "vmap", "batched", "dual"]


def with_first_record(data, value):
    inputs = data.train.inputs.copy()
    inputs[0] = value * np.array([1, -1, 1, 1], np.float32)
    return replace(data, train=replace(data.train, inputs=inputs))


def train(tiny, formulation, data, steps, order="shuffled", **rule):
    engine = tiny.engine(formulation, data=data)
    cohort = tiny.cohort(engine, steps)
    plan = engine.plan_batches(cohort, 4, order)
    rule = LocalRule(torch.ones(plan.counts.shape), **rule)
    return engine.train(cohort, rule, plan).updates.rows().clone(), plan


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("value", VALUES)
def test_neighbours_differ_by_the_clipping_norm_only(tiny, formulation, clipping, value):
    """Its client makes one step, so the change passes through nothing else."""
    data, rule = tiny.data(), {"example_clipping": CLIPPINGS[clipping]}
    steps = (1, 3, 1, 5, 2)
    plain, plan = train(tiny, formulation, data, steps, **rule)
    changed, _ = train(tiny, formulation, with_first_record(data, VALUES[value]), steps, **rule)
    assert 0 in plan.indices[0, 0, : plan.counts[0, 0]]
    assert torch.isfinite(changed).all()
    assert torch.equal(plain[1:], changed[1:])
    moved = (plain[0] - changed[0]).norm() * plan.denominators[0, 0]
    assert 0 < float(moved) <= BOUND * (1 + 1e-5)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("value", VALUES)
def test_the_record_counts_as_zero_in_every_formulation(tiny, formulation, value):
    data, rule = with_first_record(tiny.data(), VALUES[value]), {"example_clipping": CLIPPINGS["flat"]}
    oracle, _ = train(tiny, "loop", data, (2, 3, 1, 5, 2), "poisson", **rule)
    found, _ = train(tiny, formulation, data, (2, 3, 1, 5, 2), "poisson", **rule)
    assert torch.allclose(found, oracle, atol=1e-6)


@pytest.mark.parametrize("formulation", [*FORMULATIONS, "graphed"])
@pytest.mark.parametrize("value", VALUES)
def test_without_clipping_no_other_client_is_reached(tiny, formulation, value):
    """Padding of ragged batches and of rows that are done holds no example of another client."""
    data, steps = tiny.data(), (2, 3, 1, 5, 2)
    plain, _ = train(tiny, formulation, data, steps)
    changed, _ = train(tiny, formulation, with_first_record(data, VALUES[value]), steps)
    assert torch.equal(plain[1:], changed[1:]) and torch.isfinite(changed[1:]).all()
    assert not torch.isfinite(changed[0]).all()


def test_padding_is_the_clients_own(tiny):
    engine = tiny.engine()
    cohort = tiny.cohort(engine, (4, 4, 4, 4, 4))
    for order, probability in (("shuffled", None), ("sampled", None), ("poisson", 0.05)):
        plan = engine.plan_batches(cohort, 4, order, probability)
        for row, client in enumerate(cohort.clients):
            assert set(plan.indices[row].flatten()) <= set(engine.data.clients.of(client)), order
