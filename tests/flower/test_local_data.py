"""A deployment whose data never leaves the nodes; traces of deployments as devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from virtual_deployment import deploy, scenario, virtual_grid

from fedopt.api import Run, simulate
from fedopt.flower.trace import replayed
from fedopt.scenario import ConfigurationError, from_mapping


def test_local_files_give_the_simulated_model_and_stay_local(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for client in range(3):
        values = generator.normal(size=(20 + client, 4)).astype(np.float32)
        np.savez(tmp_path / f"client-{client}.npz", x_train=values, y_train=(values[:, 0] > 0).astype(np.int64))
    np.savez(tmp_path / "test.npz", x_test=values, y_test=(values[:, 0] > 0).astype(np.int64))
    data = {
        "kind": "node_files",
        "clients": 3,
        "input_shape": [4],
        "num_outputs": 2,
        "test_path": str(tmp_path / "test.npz"),
    }
    equal = {"kind": "fedavg"}
    chosen = scenario(data=data, aggregator=equal)
    grid = virtual_grid(chosen, tmp_path)
    for client, context in enumerate(grid._contexts):
        context.node_config["data-path"] = str(tmp_path / f"client-{client}.npz")
    summary = deploy(chosen, tmp_path, grid)
    together = scenario(data={**data, "folder": str(tmp_path)}, aggregator=equal)
    simulated = simulate(together, tmp_path / "simulated")
    mine, theirs = Run(tmp_path / "run").parameters(), simulated.parameters()
    assert summary["status"] == "finished" and summary["warnings"] == []
    assert max(float((mine[n] - theirs[n]).abs().max()) for n in theirs) <= 1e-6
    assert Run(tmp_path / "run").updates.num_examples.unique().tolist() == [1]  # the public stand-in
    assert Run(tmp_path / "run").clients.class_counts.isna().all()


def test_a_trace_replays_the_times_of_its_deployment(tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("client,compute_s\n0,1\n1,2\n2,4\n")
    compute = {"kind": "trace", "path": str(tmp_path / "times.csv"), "assignment": "by_id"}
    chosen = scenario(devices={"compute": compute})
    deploy(chosen, tmp_path, replay=True, **{"poll-s": 0.05})
    run = Run(tmp_path / "run")
    again = simulate(replayed(chosen, run.directory / "trace.csv"), tmp_path / "again")
    assert again.rounds.time_s.tolist() == pytest.approx(run.rounds.time_s.tolist(), abs=0.2)
    assert again.summary["model_sha256"] == run.summary["model_sha256"]
    page, simulated = run.report.read_text(), again.report.read_text()
    assert "Predicted against real" in page
    assert "on real devices" in page and "irtual time" not in page
    assert "on the simulated devices" in simulated and "Virtual time" in simulated


def test_a_trace_is_short_for_computing_and_transfers() -> None:
    body = scenario().resolved()
    made = from_mapping({**body, "devices": {"kind": "trace", "path": "a.csv", "dropout": 0.1}})
    assert made.devices.compute.path == made.devices.network.path == "a.csv"  # type: ignore[attr-defined]
    assert made.devices.dropout == 0.1
    with pytest.raises(ConfigurationError, match="dropuot"):
        from_mapping({**body, "devices": {"kind": "trace", "path": "a.csv", "dropuot": 0.1}})
