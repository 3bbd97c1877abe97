"""The same server over Flower's grid as in simulation: same model, same ledger, and no fault is ever aggregated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("flwr")

from faults import KINDS, DuplicatingGrid, faulty
from virtual_deployment import deploy, scenario, taking, virtual_grid

from fedopt.api import Run, simulate
from fedopt.flower.rules import DeploymentRefused

GAUSSIAN = {
    "unit": "client",
    "trust": "central",
    "relation": "zero_out_one",
    "mechanism": {"kind": "gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0},
    "delta": 1e-5,
}


def difference(folder: Path, other: Run) -> float:
    mine, theirs = Run(folder / "run").parameters(), other.parameters()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in theirs)


def updates(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "run" / "updates.parquet")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregator": {"kind": "fedadam"}, "client": {"kind": "sgd", "lr": 0.1, "epochs": 1, "momentum": 0.5}},
        {"aggregator": {"kind": "scaffold"}, "client": {"kind": "scaffold", "lr": 0.1, "steps": 2}},
        {"privacy": {**GAUSSIAN, "mechanism": {**GAUSSIAN["mechanism"], "noise_multiplier": 0.0}}},
    ],
    ids=["fedavg", "fedadam", "scaffold", "clipping"],
)
def test_deployment_and_simulation_give_the_same_model(changes: dict[str, Any], tmp_path: Path) -> None:
    chosen = scenario(**changes)
    summary = deploy(chosen, tmp_path)
    simulated = simulate(chosen, tmp_path / "simulated")
    assert summary["status"] == "finished" and summary["warnings"] == simulated.summary["warnings"]
    assert difference(tmp_path, simulated) <= 1e-6
    same = ["client_id", "version", "step", "staleness", "local_steps", "status", "weight", "uplink_bytes"]
    pd.testing.assert_frame_equal(updates(tmp_path)[same], simulated.updates[same])


def test_the_ledger_is_identical(tmp_path: Path) -> None:
    chosen = scenario(privacy=GAUSSIAN)
    deploy(chosen, tmp_path)
    simulated = simulate(chosen, tmp_path / "simulated")
    mine = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert mine == json.loads((simulated.directory / "privacy.json").read_text())
    assert difference(tmp_path, simulated) > 1e-3  # noise of the operating system, not the seed's


def test_a_private_deployment_writes_only_what_was_paid_for(tmp_path: Path) -> None:
    deploy(scenario(privacy=GAUSSIAN), tmp_path)
    run = Run(tmp_path / "run")
    empty = ["train_loss", "test_loss", "metric_value", "test_accuracy", "clip_fraction", "update_norm"]
    assert run.rounds[empty].isna().all().all()
    assert run.clients[["class_counts", "local_metric", "local_loss"]].isna().all().all()
    assert not (run.directory / "noise.key").exists()
    shown = deploy(scenario(privacy=GAUSSIAN), tmp_path / "public", None, **{"public-test": True})
    assert shown["final_metric"] is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_reply_is_never_aggregated(kind: str, tmp_path: Path) -> None:
    chosen = scenario()
    summary = deploy(chosen, tmp_path, virtual_grid(chosen, tmp_path, faulty(kind)))
    rows = updates(tmp_path)
    assert summary["status"] == "finished" and summary["steps"] == 3
    assert set(rows[rows.client_id == 0].status) == ({"lost"} if kind == "raises" else {"failed"})
    assert set(rows[rows.client_id != 0].status) == {"admitted"}
    assert any("client 0" in warning for warning in summary["warnings"])
    assert "patient" not in "".join(p.read_text(errors="replace") for p in (tmp_path / "run").iterdir())


def test_duplicates_are_rows_and_leave_the_model_alone(tmp_path: Path) -> None:
    chosen = scenario()
    plain = deploy(chosen, tmp_path / "plain")
    twice = deploy(chosen, tmp_path, DuplicatingGrid(virtual_grid(chosen, tmp_path)))
    assert twice["model_sha256"] == plain["model_sha256"]
    counts = updates(tmp_path).status.value_counts()
    assert counts["admitted"] == 9 and counts["duplicate"] >= 6


def test_a_client_that_never_answers_is_lost_and_the_run_goes_on(tmp_path: Path) -> None:
    chosen = scenario(devices=taking(tmp_path, 1.0, 1.0, 1000.0))
    summary = deploy(chosen, tmp_path, **{"reply-s": 10.0})
    rows = updates(tmp_path)
    assert summary["status"] == "finished"
    assert set(rows[rows.client_id == 2].status) == {"lost"} and len(rows) == 9


@pytest.mark.parametrize(
    "aggregator",
    [
        {"kind": "fedbuff", "buffer_size": 2},
        {"kind": "fedasync"},
        {"kind": "fedfix", "server_step_s": 2.0, "weights": "gap"},
    ],
    ids=lambda a: str(a["kind"]),
)
def test_asynchronous_pacing(aggregator: dict[str, Any], tmp_path: Path) -> None:
    chosen = scenario(aggregator=aggregator, devices=taking(tmp_path, 1.0, 1.6, 3.1), run={"server_steps": 6})
    summary = deploy(chosen, tmp_path)
    assert summary["status"] == "finished" and summary["steps"] == 6
    used = updates(tmp_path).query("status == 'admitted'")
    assert used.staleness.max() >= 1
    if aggregator["kind"] == "fedfix":  # a real timer: steps at every multiple, as far as polling resolves them
        times = Run(tmp_path / "run").rounds.time_s
        assert ((times - 2.0 * times.index - 2.0).abs() < 0.6).all()


def test_secure_aggregation_is_refused_with_the_reason(tmp_path: Path) -> None:
    mechanism = {"kind": "distributed_gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0}
    chosen = scenario(
        privacy={**GAUSSIAN, "trust": "distributed", "mechanism": mechanism}, aggregator={"kind": "fedavg"}
    )
    with pytest.raises(DeploymentRefused, match=r"secaggplus_mod.*Use trust: local or central"):
        deploy(chosen, tmp_path)


def test_clients_pay_for_replies_that_come_too_late(tmp_path: Path) -> None:
    """Local privacy: what left a client was paid for, although the round had closed without it."""
    mechanism = {"kind": "local_gaussian", "clipping_norm": 0.5, "noise_multiplier": 2.0}
    private = {**GAUSSIAN, "trust": "local", "relation": "replace_one", "mechanism": mechanism}
    slow = taking(tmp_path, 1.0, 1.0, 5.0)
    chosen = scenario(privacy=private, devices=slow, sampling={"kind": "all", "deadline_s": 3.0})
    late = deploy(chosen, tmp_path)
    in_time = deploy(scenario(privacy=private), tmp_path / "in_time")
    assert late["epsilon"] == pytest.approx(in_time["epsilon"])


LOCAL: dict[str, Any] = {
    **GAUSSIAN,
    "trust": "local",
    "relation": "replace_one",
    "mechanism": {"kind": "local_gaussian", "clipping_norm": 0.5, "noise_multiplier": 2.0},
}


def charges(tmp_path: Path) -> int:
    """Replies that were paid for."""
    document = json.loads((tmp_path / "run" / "privacy.json").read_text())
    return sum(release["count"] for release in document["releases"])


def test_a_task_that_expires_is_paid_for(tmp_path: Path) -> None:
    """No answer came in time, but one may have left the client: nine tasks, nine charges."""
    chosen = scenario(privacy=LOCAL, devices=taking(tmp_path, 1.0, 1.0, 1000.0))
    deploy(chosen, tmp_path, **{"reply-s": 10.0})
    assert updates(tmp_path).status.value_counts().to_dict() == {"admitted": 6, "lost": 3}
    assert charges(tmp_path) == 9


def test_a_cancelled_task_is_paid_for(tmp_path: Path) -> None:
    """Over-selection asks three and takes two: the third works on, and its reply may leave the client."""
    chosen = scenario(
        privacy=LOCAL,
        devices=taking(tmp_path, 1.0, 1.0, 5.0),
        sampling={"kind": "fixed", "cohort_size": 2, "over_selection": 1.5},
    )
    deploy(chosen, tmp_path)
    rows = updates(tmp_path)
    assert (rows.status == "admitted").sum() == 6 and len(rows) > 6
    assert charges(tmp_path) == len(rows)


def test_example_level_privacy_keeps_a_ledger_on_the_client(tmp_path: Path) -> None:
    from fedopt.flower.memory import Memory

    private = {
        "unit": "example",
        "trust": "local",
        "relation": "zero_out_one",
        "mechanism": {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 1.0},
        "delta": 1e-5,
    }
    work = {"kind": "dp_sgd", "lr": 0.1, "batch_size": 8, "steps": 4, "sampling_probability": 0.05}
    chosen = scenario(privacy=private, client=work)
    grid = virtual_grid(chosen, tmp_path)
    summary = deploy(chosen, tmp_path, grid)
    for client, context in enumerate(grid._contexts):
        assert sum(Memory(context.state).get("ledger")[str(client)].values()) == 12  # 3 tasks of 4 steps
    simulated = simulate(chosen, tmp_path / "simulated")
    assert summary["epsilon"] == pytest.approx(simulated.summary["epsilon"])
