"""On a CUDA device: agreement, determinism, no synchronisation, predicted memory, TF32. ``pytest -m gpu``."""

import pytest
import torch
from torch import nn

import fedopt
from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.models.base import Model
from scenarios import BUFFERED, small

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
pytestmark = [pytest.mark.gpu, NO_CUDA]
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


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_formulation_gives_the_numbers_of_the_loop_on_a_cpu(tiny, formulation, rule):
    expected = prepared(tiny, "loop", rule, "cpu")[1]()
    found = prepared(tiny, formulation, rule)[1]()
    close(found.updates.rows(), expected.updates.rows())
    torch.testing.assert_close(found.updates.norms().cpu(), expected.updates.norms(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.losses.cpu(), expected.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("formulation", ["batched", "dual"])
def test_convolutions_and_dropout_equal_the_loop_of_the_device(tiny, formulation):
    expected = prepared(tiny, "loop", {}, model=Images())[1]()
    close(prepared(tiny, formulation, {}, model=Images())[1]().updates.rows(), expected.updates.rows(), 1e-4)


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual"])
def test_the_same_work_gives_the_same_bits(tiny, formulation):
    first, second = (prepared(tiny, formulation, RULES["everything"])[1]() for _ in range(2))
    assert torch.equal(first.updates.rows(), second.updates.rows())


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual"])
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


@pytest.mark.parametrize("formulation", ["batched", "dual", "vmap"])
def test_memory_is_what_was_predicted(tiny, formulation):
    sizes = (40,) * 64
    data = tiny.data(shape=(1, 28, 28), sizes=sizes)
    engine = tiny.engine(formulation, tiny.chain(hidden=200), data, device="cuda")
    cohort = tiny.cohort(engine, (4,) * 64)
    plan = engine.plan_batches(cohort, 8)
    rule = LocalRule(torch.full(plan.counts.shape, 0.1))
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


@pytest.mark.parametrize("rule", [{}, {"weight_decay": 0.1}])
def test_a_captured_step_gives_the_numbers_of_the_loop(tiny, rule):
    expected = prepared(tiny, "loop", rule, "cpu")[1]()
    engine, train = prepared(tiny, "graphed", rule)
    close(train().updates.rows(), expected.updates.rows())
    close(train().updates.rows(), expected.updates.rows())  # replayed from the graph that the first call captured
    (replay,) = engine.formulation._shapes.values()
    assert replay.step.__name__ == "replay"


@pytest.mark.parametrize("changes", [{}, BUFFERED])
def test_a_run_gives_the_model_of_a_cpu(tmp_path, changes):
    models = []
    for device in ("cpu", "cuda"):
        run = fedopt.simulate(small(**changes, engine__device=device, engine__formulation="dual"), tmp_path / device)
        models.append(torch.cat([v.flatten() for v in run.parameters().values()]))
    assert (models[0] - models[1]).norm() <= 1e-4 * models[0].norm()
