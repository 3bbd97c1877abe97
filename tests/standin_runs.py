"""Whole runs on a device that is not the CPU give the CPU's numbers, and never mix devices.

``test_standin_device.py`` runs these in processes of their own.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from standin import Draws, MixedDevicesError, OnTheStandin, register
from zeroth_order_runs import COMFL, DIFFERENCES, DIGITS, FZOOS, LOGGED, SPSA, TWO, Quick

from fedopt.components import components
from fedopt.scenario import from_mapping
from fedopt.simulation import assembly
from fedopt.simulation.simulator import Simulator
from fedopt.zeroth_order import seed_log
from scenarios import BUFFERED, mapping

register()
SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
SCALARS = {**LOGGED, "digits": (SPSA, COMFL, {"data": DIGITS})}
ATTACK = {"kind": "image_attack", "clients": 3, "train_steps": 40, "source": DIGITS}
VECTORS = {
    "fzoos": (FZOOS, TWO, {}),
    "scaffold1": ({**DIFFERENCES, "method": "scaffold1"}, TWO, {}),
    "scaffold2": ({**DIFFERENCES, "method": "scaffold2"}, {"kind": "scaffold"}, {}),
    "fedprox": ({**DIFFERENCES, "method": "fedprox", "directions": "sphere"}, {"kind": "fedavg"}, {}),
    "orthogonal": ({**DIFFERENCES, "directions": "orthogonal"}, {"kind": "fedavg"}, {}),
    "rademacher": ({**DIFFERENCES, "directions": "rademacher"}, {"kind": "fedavg"}, {"data": DIGITS}),
    "attack": (DIFFERENCES, {"kind": "fedavg"}, {"data": ATTACK}),
    "fedzo": (DIFFERENCES, {"kind": "safeguard"}, {}),
}
ZEROTH = ("ackley", "dpzero", "dpzero-clients", "non-differentiable-metric")
FILES = [f"zeroth_order/{name}" for name in ZEROTH]
FILES += [f"privacy/{path.stem}" for path in sorted((SCENARIOS / "privacy").glob("*.yaml"))]
EVERYONE = {"sampling": {"kind": "all"}}
NEEDS = {
    "async_fedavg": EVERYONE,
    "fedfix": {**EVERYONE, "aggregator": {"kind": "fedfix", "server_step_s": 1.0}},
    "buffered_scaffold": {"client": {"kind": "scaffold"}, **BUFFERED, "aggregator": {"kind": "buffered_scaffold"}},
    "scaffold": {"client": {"kind": "scaffold"}},
}
OTHER_REPLIES = {"decomfl", "diff2", "fedkseed", "feedsign", "gradient_correction", "one_byte", "safeguard"}  # above


@pytest.fixture
def there(monkeypatch):
    """A context in which runs choose the stand-in."""

    @contextlib.contextmanager
    def entered():
        with OnTheStandin() as device, monkeypatch.context() as patch:
            patch.setattr(assembly, "choose_device", lambda wanted: torch.device("standin", 0))
            for place in ("engine.base", "privacy.simulated_noise"):
                patch.setattr(f"fedopt.{place}.torch_generator", Draws.named)
                patch.setattr(f"fedopt.{place}.TorchDraws", Draws)
            yield
        assert device.operations > 100

    return entered


@pytest.mark.parametrize("name", [*SCALARS, *VECTORS])
def test_zeroth_order_methods(there, name):
    client, aggregator, more = {**SCALARS, **VECTORS}[name]
    here = Quick(client, aggregator, steps=3, **more)
    with there():
        run = Quick(client, aggregator, steps=3, **more)
        assert run.params.device.type == "standin"
        params, files = run.params.cpu(), run.parts.scenario.aggregator.files(run.state)
    assert torch.equal(params, here.params) and run.values == here.values
    assert [_counts(row) for row in run.rounds] == [_counts(row) for row in here.rounds]
    if name in SCALARS:
        assert torch.equal(seed_log.replay(here.start, seed_log.SeedLog.from_bytes(files["seed_log.bin"])), params)


def _counts(row):
    return row["queries"], row["uplink_bytes"], row["downlink_bytes"]


def finished(body):
    """The model of a scenario after its run, and its rows of rounds."""
    scenario = from_mapping(body)
    parts = assembly.assemble(scenario)
    rounds = []
    simulator = Simulator(
        parts.server, parts.computation, parts.clock, scenario.client.batch_size_of,
        lambda stepped, metrics: rounds.append(stepped.row), lambda row: None,
    )  # fmt: skip
    assert simulator.run().status == "finished"
    return scenario.aggregator.evaluated(parts.server.state.method), rounds


def agree(there, body):
    here, rows = finished(body)
    with there():
        params, rows_there = finished(body)
        assert params.device.type == "standin"
        params = params.cpu()
    torch.testing.assert_close(params, here, rtol=1e-5, atol=1e-6)  # hand-batched layers sum in another order there
    assert [_counts(row) for row in rows_there] == [_counts(row) for row in rows]


@pytest.mark.parametrize("name", FILES)
def test_scenario_files(there, name):
    body = YAML(typ="safe").load(SCENARIOS / f"{name}.yaml")
    body["run"]["server_steps"] = 2
    agree(there, {**body, "engine": {"device": "cpu", "threads": 1, "formulation": "vmap"}})


@pytest.mark.parametrize("kind", sorted(set(components("fedopt.aggregators")) - OTHER_REPLIES))
def test_aggregators(there, kind):
    changes = {"aggregator": {"kind": kind}, **NEEDS.get(kind, {})}
    agree(there, mapping(**changes, run__server_steps=3))


@pytest.mark.parametrize("formulation", ["vmap", "batched", "dual"])
@pytest.mark.parametrize("client", ["proximal", "scaffold"])
def test_formulations(there, formulation, client):
    changes = {"client": {"kind": client, "lr": 0.1, "batch_size": 20}, "aggregator": {"kind": "fedavg"}}
    if client == "scaffold":
        changes["aggregator"] = {"kind": "scaffold"}
    agree(there, mapping(**changes, model={"kind": "mlp"}, engine__formulation=formulation, run__server_steps=2))


def test_the_standin_refuses_what_a_gpu_would():
    with OnTheStandin() as device:
        values, here = torch.ones(3, device="standin"), torch.ones(3)
        for wrong in (lambda: values + here, lambda: here[values.long()], lambda: torch.stack([here, values])):
            with pytest.raises(MixedDevicesError):
                wrong()
        with pytest.raises(RuntimeError, match="numpy"):
            values.numpy()
        values[[0, 2]] += 1.0
        assert device.operations > 0 and (values * 2).tolist() == [4.0, 2.0, 4.0]
        assert (values + here.to("standin")).cpu().tolist() == [3.0, 2.0, 3.0]
