"""On a CUDA device: agreement, determinism, no synchronisation, predicted memory, TF32. ``pytest -m gpu``."""

import numpy as np
import pytest
import torch
from torch import nn

import fedopt
from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.engine.convolution import Columns
from fedopt.engine.dropout import dropped, mask_keys
from fedopt.models.base import Model
from scenarios import BUFFERED, small

pytestmark = pytest.mark.gpu
RULES = {
    "plain": {},
    "everything": {"momentum": 0.7, "nesterov": True, "weight_decay": 0.05, "proximal": 0.3},
    "gradient clip": {"gradient_clip": 0.3, "momentum": 0.5},
    "example clip": {"example_clipping": ExampleClipping(0.5, 0.0)},
}


class Images(Model):
    """A small CNN with dropout."""

    def build(self, task):
        trunk = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        head = [nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, task.num_outputs)]
        return nn.Sequential(*trunk, *head)


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def prepared(tiny, formulation, rule, device="cuda", model=None, **options):
    """A call that trains a cohort with two start versions, and its engine."""
    data = tiny.data(shape=(1, 8, 8))
    engine = tiny.engine(formulation, model or tiny.chain(hidden=64), data, device=device, **options)
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 4), versions=2)
    plan = engine.plan_batches(cohort, 4)
    rates = torch.linspace(0.05, 0.3, 5)[:, None].expand(plan.counts.shape)
    return engine, lambda: engine.train(cohort, LocalRule(rates, **rule), plan)


def close(found, expected, tolerance=1e-5):
    error = (found.cpu() - expected.cpu()).norm(dim=1).max() / expected.norm(dim=1).max().cpu()
    assert error <= tolerance, f"relative error {error:.2e}"


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual", "graphed"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_formulation_gives_the_numbers_of_the_loop_on_a_cpu(tiny, formulation, rule):
    expected = prepared(tiny, "loop", rule, "cpu")[1]()
    found = prepared(tiny, formulation, rule)[1]()
    close(found.updates.rows(), expected.updates.rows())
    torch.testing.assert_close(found.updates.norms().cpu(), expected.updates.norms(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.losses.cpu(), expected.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"padding": 2}, {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}])
def test_columns_are_those_of_the_cpu(dtype, options):
    columns = Columns(nn.Conv2d(3, 5, (3, 2), **options))
    images = torch.randn(7, 3, 11, 13, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = columns.of(images)
    found = columns.of(images.cuda())
    assert torch.equal(found.cpu(), expected) and torch.equal(columns.of_any_device(images.cuda()).cpu(), expected)
    back = columns.back(expected.float(), 11, 13)
    torch.testing.assert_close(columns.back(found, 11, 13).cpu(), back, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_is_that_of_the_cpu(probability):
    values = torch.randn(6, 10, 333, generator=torch.Generator().manual_seed(1))
    keys = torch.from_numpy(np.concatenate([mask_keys(3, client, 0, 1) for client in range(6)]))
    begins = torch.tensor([0, 5, 2**31 - 7, -9, 1000, 3], dtype=torch.int32)
    found = dropped(values.cuda(), keys.cuda(), begins.cuda(), probability)
    assert torch.equal(found.cpu(), dropped(values, keys, begins, probability))


@pytest.mark.parametrize("formulation", ["batched", "dual", "graphed"])
def test_convolutions_and_dropout_equal_the_loop_of_the_device(tiny, formulation):
    expected = prepared(tiny, "loop", {}, model=Images())[1]()
    close(prepared(tiny, formulation, {}, model=Images())[1]().updates.rows(), expected.updates.rows(), 1e-4)


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual", "graphed"])
def test_the_same_work_gives_the_same_bits(tiny, formulation):
    first, second = (prepared(tiny, formulation, RULES["everything"])[1]() for _ in range(2))
    assert torch.equal(first.updates.rows(), second.updates.rows())


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual", "graphed"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_training_and_aggregating_never_wait(tiny, formulation, rule):
    train = prepared(tiny, formulation, rule)[1]
    train()  # libraries set themselves up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        updates = train().updates
        norms = updates.norms()
        updates.scaled(1.0 / norms).weighted_sum(torch.ones(5, dtype=torch.float64))
        updates.take([3, 1]).weighted_sum(torch.ones(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_of_captured_steps_is_what_was_predicted(tiny):
    """Buffers, what a capture puts aside, one step, and the updates; libraries' workspaces are made before."""
    data, sizes = tiny.data(shape=(1, 28, 28), sizes=(40,) * 64), (4,) * 64
    for formulation in ("batched", "graphed", "graphed"):
        engine = tiny.engine(formulation, tiny.chain(hidden=200), data, device="cuda")
        cohort = tiny.cohort(engine, sizes)
        plan = engine.plan_batches(cohort, 8)
        rule = LocalRule(torch.full(plan.counts.shape, 0.1))
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        trained = engine.train(cohort, rule, plan)
        used = torch.cuda.max_memory_allocated() - before
        del trained
    predicted = engine._blocks.prediction("graphed", rule, 4, 8, 1).bytes(64)
    assert used == pytest.approx(predicted, rel=0.25)


@pytest.mark.parametrize("formulation", ["batched", "dual", "vmap"])
def test_memory_is_what_was_predicted(tiny, formulation):
    sizes = (40,) * 64
    data = tiny.data(shape=(1, 28, 28), sizes=sizes)
    engine = tiny.engine(formulation, tiny.chain(hidden=200), data, device="cuda")
    cohort = tiny.cohort(engine, (4,) * 64)
    plan = engine.plan_batches(cohort, 8)
    # Different rates take the general path, which is what is predicted: the one that keeps most.
    rule = LocalRule(torch.linspace(0.1, 0.2, 64)[:, None].expand(plan.counts.shape))
    engine.train(cohort, rule, plan)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine.train(cohort, rule, plan)
    used = torch.cuda.max_memory_allocated() - before
    predicted = engine._blocks.prediction(formulation, rule, 4, 8, 1).bytes(64)
    assert used == pytest.approx(predicted, rel=0.15)


@pytest.mark.parametrize("formulation", ["batched", "dual"])
def test_norms_are_exact_where_training_is_tf32(tiny, formulation):
    exact = prepared(tiny, formulation, {"weight_decay": 0.1})[1]()
    found = prepared(tiny, formulation, {"weight_decay": 0.1}, dtype="tf32")[1]()
    close(found.updates.rows(), exact.updates.rows(), 1e-2)
    rows = found.updates.rows().double()
    torch.testing.assert_close(found.updates.norms().double(), rows.norm(dim=1), rtol=1e-5, atol=0)
    weights = torch.ones(5, dtype=torch.float64, device="cuda")
    torch.testing.assert_close(found.updates.weighted_sum(weights).double(), weights @ rows, rtol=1e-5, atol=1e-6)


def test_noise_of_clipped_examples_is_that_of_the_loop(tiny):
    rule = {"example_clipping": ExampleClipping(0.5, 0.1)}
    expected = prepared(tiny, "loop", rule)[1]()
    close(prepared(tiny, "dual", rule)[1]().updates.rows(), expected.updates.rows())


def test_known_chains_are_replayed_and_other_rules_go_elsewhere(tiny):
    engine, _ = prepared(tiny, "auto", {}, model=Images())
    assert engine.selection.formulation == "graphed"
    rate = torch.zeros(1, 1)
    assert engine.formulation_for(LocalRule(rate)) is engine.formulation
    for rule in ({"momentum": 0.9}, {"example_clipping": ExampleClipping(1.0, 0.0)}):
        assert engine.formulation_for(LocalRule(rate, **rule)).name == "dual"


@pytest.mark.parametrize("rule", [{}, {"weight_decay": 0.1}])
def test_a_captured_step_gives_the_numbers_of_the_loop(tiny, rule):
    expected = prepared(tiny, "loop", rule, "cpu")[1]()
    engine, train = prepared(tiny, "graphed", rule)
    close(train().updates.rows(), expected.updates.rows())
    close(train().updates.rows(), expected.updates.rows())  # replayed from the graph that the first call captured
    (replay,) = engine.formulation._replays.values()
    assert replay.graphs


@pytest.mark.parametrize("changes", [{}, BUFFERED])
def test_a_run_gives_the_model_of_a_cpu(tmp_path, changes):
    models = []
    for device in ("cpu", "cuda"):
        run = fedopt.simulate(small(**changes, engine__device=device, engine__formulation="dual"), tmp_path / device)
        models.append(torch.cat([v.flatten() for v in run.parameters().values()]))
    assert (models[0] - models[1]).norm() <= 1e-4 * models[0].norm()
