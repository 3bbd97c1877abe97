"""Asynchronous pacing, messages of scalars, and noise on the client, on real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from real import deploy_real, short

from fedopt.api import simulate
from fedopt.flower.processes import LocalFederation

pytestmark = pytest.mark.slow

SCALARS = {
    "client": {"kind": "spsa", "radius": 0.001, "batch_size": 32},
    "aggregator": {"kind": "decomfl", "step_size": 0.1, "perturbations": 2},
}
EXAMPLE_PRIVACY = {
    "client": {"kind": "dp_sgd", "lr": 0.1, "batch_size": 8, "steps": 4, "sampling_probability": 0.05},
    "privacy": {
        "unit": "example",
        "trust": "local",
        "relation": "zero_out_one",
        "mechanism": {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 1.0},
        "delta": 1e-5,
    },
}


@pytest.mark.parametrize("aggregator", [{"kind": "fedbuff", "buffer_size": 2}, {"kind": "fedasync"}])
def test_asynchronous_pacing(aggregator: dict[str, object], tmp_path: Path) -> None:
    run = deploy_real(short(3, 4, aggregator=aggregator), tmp_path, nodes=3)
    assert run.summary["status"] == "finished" and run.summary["steps"] == 4
    assert run.updates.staleness.max() >= 1 and set(run.updates.status) == {"admitted"}


def test_nodes_come_and_go_while_fedasync_runs(tmp_path: Path) -> None:
    """One of three is killed while everybody is at work; the others go on at once, without waiting for the loss."""

    def break_it(federation: LocalFederation, directory: Path) -> None:
        federation.processes.kill("supernode-2")

    chosen = short(3, 12, aggregator={"kind": "fedasync"})
    run = deploy_real(chosen, tmp_path, nodes=3, during=break_it, **{"reply-s": 60.0, "wait-s": 20.0})
    assert run.summary["status"] == "finished" and run.summary["steps"] == 12
    used = run.updates.query("status == 'admitted'").client_id.value_counts()
    assert used.get(2, 0) <= 1 and min(used[0], used[1]) >= 4


def test_fedfix_steps_at_its_ticks(tmp_path: Path) -> None:
    run = deploy_real(short(2, 3, aggregator={"kind": "fedfix", "server_step_s": 20.0, "weights": "gap"}), tmp_path)
    assert run.rounds.time_s.tolist() == pytest.approx([20.0, 40.0, 60.0], abs=3.0)
    assert run.updates.query("status == 'admitted'").client_id.nunique() == 2


def test_scalars_of_a_zeroth_order_method_are_counted_to_the_byte(tmp_path: Path) -> None:
    chosen = short(2, 3, **SCALARS)
    run = deploy_real(chosen, tmp_path)
    simulated = simulate(chosen, tmp_path / "simulated")
    assert run.summary["model_sha256"] == simulated.summary["model_sha256"]
    assert run.summary["uplink_bytes"] == simulated.summary["uplink_bytes"] == 6 * 2 * 4  # replies, scalars, float32
    size = sum(tensor.numel() for tensor in run.parameters().values())
    assert run.summary["downlink_bytes"] == 6 * 4 * size  # a client of Flower keeps no model


def test_dp_sgd_on_the_client_costs_what_its_simulation_says(tmp_path: Path) -> None:
    chosen = short(2, 2, **EXAMPLE_PRIVACY)
    first = deploy_real(chosen, tmp_path / "first")
    second = deploy_real(chosen, tmp_path / "second")
    simulated = simulate(chosen, tmp_path / "simulated")
    assert first.summary["epsilon"] == pytest.approx(simulated.summary["epsilon"])
    models = [np.concatenate([t.numpy().ravel() for t in run.parameters().values()]) for run in (first, second)]
    assert np.abs(models[0] - models[1]).max() > 1e-3  # noise of the nodes' operating system, never of the seed


HALF = """
from fedopt.aggregators.base import Method, Step, broadcast, weighted_mean
from fedopt.aggregators.fedavg import State
from fedopt.types import Exchange


class Half(Method):
    def init(self, params, public):
        return State(params)

    def plan(self, state, public):
        return Exchange()

    def payload(self, state, client, last_version):
        return broadcast(state.params)

    def admit(self, state, meta, public):
        return 1.0

    def reduce(self, state, batch, public):
        return {"update": weighted_mean(batch, "update", state.params, public)}

    def step(self, state, released, public):
        return Step(State(state.params + 0.5 * released["update"]))
"""


@pytest.mark.parametrize("warm_start", [True, False])
def test_nodes_find_a_users_own_component(warm_start: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever this process found it; what lies in the current directory hides nothing that is installed."""
    for name, text in (("modules/half.py", HALF), ("here/random.py", "raise ImportError('not this one')\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.chdir(tmp_path / "here")
    chosen = short(aggregator={"kind": "half:Half"})
    run = deploy_real(chosen, tmp_path, warm_start=warm_start)
    assert set(run.updates.status) == {"admitted"} and len(run.updates) == 4
    assert run.summary["model_sha256"] == simulate(chosen, tmp_path / "simulated").summary["model_sha256"]
