"""Training and aggregating never make the host wait for the device (seen on a watched stand-in for a GPU)."""

import pytest
import torch
from device_watch import DeviceWatch
from torch import nn

import fedopt.simulation.computation as computation
from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.models.base import Model
from fedopt.scenario import from_mapping
from fedopt.simulation import assembly
from fedopt.simulation.simulator import Simulator
from scenarios import BUFFERED, mapping

RULES = {
    "plain": {},
    "decay, proximal and momentum": {"momentum": 0.7, "weight_decay": 0.05, "proximal": 0.3},
    "gradient clip": {"gradient_clip": 0.3},
    "example clip with noise": {"example_clipping": ExampleClipping(0.5, 0.3)},
}


@pytest.fixture(autouse=True)
def streams(monkeypatch):
    """There is no generator on the stand-in; values do not matter."""
    host = lambda device, *names: torch.Generator()  # noqa: E731
    for place in ("engine.base", "privacy.simulated_noise"):
        monkeypatch.setattr(f"fedopt.{place}.torch_generator", host)

    def normal(self, shape, dtype=None):
        return torch.randn(tuple(shape), device="meta", dtype=dtype)

    monkeypatch.setattr("fedopt.rng.TorchDraws.normal", normal)


class WithDropout(Model):
    def build(self, task):
        layers = [nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, task.num_outputs)]
        return nn.Sequential(*layers)


def train(tiny, formulation, rule, versions=2, vary=True, order="shuffled", **options):
    engine = tiny.engine(formulation, device="meta", **options)
    assert engine.selection.formulation == formulation
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 0), versions=versions)
    plan = engine.plan_batches(cohort, 4, order)
    rates = torch.full(plan.counts.shape, 0.1)
    if vary:
        rates = torch.linspace(0.05, 0.3, 5)[:, None].expand(plan.counts.shape)
    with DeviceWatch() as watch:
        updates = engine.train(cohort, LocalRule(rates, **rule), plan).updates
        weights = torch.arange(5.0, dtype=torch.float64)
        updates.weighted_sum(weights)
        norms = updates.norms()
        updates.scaled(1.0 / norms).weighted_sum(weights)
        updates.take([3, 1]).scaled(weights[:2]).weighted_sum(weights[:2])
        updates.rows()
    return watch


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("vary", [True, False])
def test_training_never_waits(tiny, formulation, name, vary):
    watch = train(tiny, formulation, RULES[name], vary=vary)
    assert not watch.violations and watch.operations > 100


class Convolutions(Model):
    def build(self, task):
        trunk = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*trunk, nn.Dropout(0.2), nn.Flatten(), nn.Linear(12, task.num_outputs))


@pytest.mark.parametrize("formulation", ["loop", "batched", "dual"])
def test_nor_with_convolutions(tiny, formulation):
    assert not train(tiny, formulation, {}, model=Convolutions()).violations


@pytest.mark.parametrize("formulation", ["loop", "batched", "dual"])
def test_nor_with_dropout_and_repeated_examples(tiny, formulation):
    assert not train(tiny, formulation, {}, model=WithDropout()).violations
    assert not train(tiny, formulation, {}, order="poisson").violations


def test_the_watch_sees_what_would_wait():
    values, there = torch.zeros(3), torch.zeros(3, device="meta")
    for bad in (
        lambda: values.to("meta"),
        lambda: there[[1, 0]],
        lambda: torch.tensor([1.0], device="meta"),
        lambda: there[torch.tensor([1, 0])],
    ):
        with DeviceWatch() as watch:
            bad()
        assert len(watch.violations) == 1, bad
    for worse in (lambda: bool(there.any()), lambda: there + values):
        with pytest.raises(RuntimeError), DeviceWatch():
            worse()


PRIVATE = {
    "privacy": {
        "unit": "client",
        "trust": "central",
        "delta": 1e-5,
        "mechanism": {"kind": "gaussian", "clipping_norm": 1.0, "noise_multiplier": 1.0},
    },
}


@pytest.mark.parametrize("changes, reads_per_step", [({}, 1), (BUFFERED, 1), (PRIVATE, 2)])
def test_a_round_reads_the_device_once_per_batch(monkeypatch, changes, reads_per_step):
    """One copy brings the sums, losses and norms of a batch of replies; with a mechanism its own metrics follow."""
    monkeypatch.setattr(assembly, "choose_device", lambda wanted: torch.device("meta"))
    batches, reads = [], []

    def read(tensors):
        reads.append(len(tensors))
        return [[0.0] * len(each) for each in tensors]

    monkeypatch.setattr(computation, "read", read)
    parts = assembly.assemble(from_mapping(mapping(**changes)))
    process = parts.computation._process
    parts.computation._process = lambda *args: batches.append(1) or process(*args)
    steps = []
    simulator = Simulator(
        parts.server,
        parts.computation,
        parts.clock,
        parts.scenario.client.batch_size_of,
        lambda stepped, metrics: steps.append(stepped.step),
        lambda row: None,
    )
    with DeviceWatch() as watch:
        simulator.run()
    assert not watch.violations
    assert len(steps) >= 3 and len(reads) == reads_per_step * len(batches)
