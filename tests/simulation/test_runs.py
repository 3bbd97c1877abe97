"""Whole runs on real data: the round loop as oracle, determinism, resume, faults."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import fedopt
from fedopt import rng
from fedopt.engine.base import Cohort
from fedopt.runlog import RunLogError
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import assemble
from fedopt.simulation.session import CHECKPOINT, FAILURES_LISTED, Session
from fedopt.simulation.summary import model_hash
from fedopt.types import Message
from scenarios import BUFFERED, small


def run_to_end(scenario: Scenario, directory: Path, resume: bool = False) -> dict[str, Any]:
    return Session(scenario, directory, quiet=True).run(resume=resume)


def tables(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    run = fedopt.open_run(directory)
    return run.rounds.drop(columns="wall_s"), run.updates, run.clients


def test_the_event_engine_is_a_round_loop_bit_for_bit(tmp_path: Path) -> None:
    scenario = small(sampling={"kind": "all"})
    summary = run_to_end(scenario, tmp_path / "run")
    parts = assemble(scenario)
    params, clients = parts.engine.initial_parameters(), tuple(range(12))
    for version in range(6):
        steps = [scenario.client.planned_steps(int(n), Message({})) for n in parts.data.clients.sizes()]
        total = torch.zeros_like(params)
        for start in range(0, 12, 8):  # the scenario's chunk
            rows = clients[start : start + 8]
            messages = tuple(Message({"params": params}, {"version": version, "local_steps": steps[c]}) for c in rows)
            cohort = Cohort(rows, (version,) * len(rows), messages, tuple(steps[c] for c in rows), scenario.seed)
            reply = scenario.client.work(cohort, parts.engine)
            total = total + reply.parts["update"].weighted_sum(torch.ones(len(rows)))
        params = params + total / 12.0
    assert model_hash(params) == summary["model_sha256"]


def test_the_same_scenario_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    first = run_to_end(small(**BUFFERED), tmp_path / "a")
    second = run_to_end(small(**BUFFERED), tmp_path / "b")
    third = run_to_end(small(**BUFFERED, seed=4), tmp_path / "c")
    assert first["model_sha256"] == second["model_sha256"] != third["model_sha256"]
    for one, other in zip(tables(tmp_path / "a"), tables(tmp_path / "b"), strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_chunking_changes_nothing_beyond_rounding(tmp_path: Path) -> None:
    models = []
    for chunk in (1, 3, 100):
        directory = tmp_path / str(chunk)
        run_to_end(small(**BUFFERED, engine__chunk=chunk), directory)
        models.append(torch.cat([v.flatten() for v in fedopt.open_run(directory).parameters().values()]))
    for other in models[1:]:
        assert (models[0] - other).norm() <= 1e-5 * models[0].norm()


def test_learning_happens(tmp_path: Path) -> None:
    summary = run_to_end(small(run__server_steps=30, sampling={"kind": "all"}), tmp_path / "run")
    assert summary["final_metric"] > 0.8


SCAFFOLD = {
    "client": {"kind": "scaffold", "lr": 0.1, "batch_size": 20, "epochs": 1},
    "aggregator": {"kind": "scaffold"},
}


class Interrupt(Exception):
    """Stands for a kill at a chosen moment."""


@pytest.mark.parametrize("changes", [{}, BUFFERED, SCAFFOLD, {**BUFFERED, "devices__dropout": 0.3}])
@pytest.mark.parametrize("stop_at", [1, 3, 4, 5])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], stop_at: int
) -> None:
    whole = run_to_end(small(**changes), tmp_path / "whole")
    session = Session(small(**changes), tmp_path / "cut", quiet=True)
    original = Session._on_step

    def stopping(self: Session, stepped: Any, metrics: dict[str, float]) -> str | None:
        answer = original(self, stepped, metrics)
        if stepped.step == stop_at:
            raise Interrupt
        return answer

    monkeypatch.setattr(Session, "_on_step", stopping)
    with pytest.raises(Interrupt):
        session.run()
    monkeypatch.undo()
    resumed = run_to_end(small(**changes), tmp_path / "cut", resume=True)
    assert resumed["model_sha256"] == whole["model_sha256"]
    for one, other in zip(tables(tmp_path / "whole"), tables(tmp_path / "cut"), strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_a_copy_of_an_unfinished_run_resumes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_finish", lambda self, ended: (_ for _ in ()).throw(Interrupt))
    with pytest.raises(Interrupt):
        run_to_end(small(run__server_steps=5), tmp_path / "a")
    monkeypatch.undo()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / CHECKPOINT).exists()
    whole = run_to_end(small(run__server_steps=5), tmp_path / "whole")
    assert run_to_end(small(run__server_steps=5), tmp_path / "b", resume=True)["model_sha256"] == whole["model_sha256"]


def poison(monkeypatch: pytest.MonkeyPatch, client: int) -> None:
    """Every update of one client is NaN."""
    from fedopt.clients.sgd import Sgd
    from fedopt.engine.base import CohortReply, DenseUpdates

    original = Sgd.work

    def work(self: Sgd, cohort: Cohort, engine: Any) -> CohortReply:
        reply = original(self, cohort, engine)
        rows = reply.parts["update"].rows().clone()
        rows[[i for i, c in enumerate(cohort.clients) if c == client]] = float("nan")
        return CohortReply({"update": DenseUpdates(rows)}, metrics=reply.metrics)

    monkeypatch.setattr(Sgd, "work", work)


def test_a_client_that_returns_nan_is_lost_and_never_aggregated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, client=5)
    summary = run_to_end(small(sampling={"kind": "all"}), tmp_path / "run")
    run = fedopt.open_run(tmp_path / "run")
    failed = run.updates[run.updates.status == "failed"]
    assert summary["status"] == "finished" and set(failed.client_id) == {5} and len(failed) == 6
    assert (run.rounds.participants == 11).all() and (run.rounds.lost == 1).all()
    assert "client 5, version 0: the reply holds NaN" in summary["warnings"][0]
    assert torch.isfinite(next(iter(run.parameters().values()))).all()


def test_of_many_failures_the_first_are_listed_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, client=5)
    scenario = small(sampling={"kind": "all"}, run__server_steps=25)
    run = fedopt.simulate(scenario, out=tmp_path / "run", quiet=False)
    assert run.summary["lost"] == 25 and len(run.summary["warnings"]) == FAILURES_LISTED == 20
    assert run.summary["warnings"][-1].endswith("further failures are counted as lost, not listed")
    assert capsys.readouterr().err.count("holds NaN") == 20
    on_step = Session._on_step

    def stopping(self: Session, stepped: Any, metrics: dict[str, float]) -> str | None:
        answer = on_step(self, stepped, metrics)
        if stepped.step == 23:
            raise Interrupt
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_on_step", stopping)
        with pytest.raises(Interrupt):
            run_to_end(scenario, tmp_path / "cut")
    assert run_to_end(scenario, tmp_path / "cut", resume=True)["warnings"] == run.summary["warnings"]


def test_a_diverged_model_stops_the_run_with_a_report(tmp_path: Path) -> None:
    scenario = small(aggregator={"kind": "fedavg", "server_lr": 1e39}, run__server_steps=50)
    summary = run_to_end(scenario, tmp_path / "run")
    assert summary["status"] == "diverged" and "lower client.lr" in summary["reason"]
    assert (tmp_path / "run" / "report.html").exists() and len(fedopt.open_run(tmp_path / "run").rounds) < 50


def test_an_unwritable_folder_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLogError, match="choose another with --out"):
        run_to_end(small(), tmp_path / "file" / "run")


def test_rows_of_the_tables_agree(tmp_path: Path) -> None:
    summary = run_to_end(small(**BUFFERED, devices__dropout=0.2), tmp_path / "run")
    run = fedopt.open_run(tmp_path / "run")
    admitted = run.updates[run.updates.status == "admitted"]
    assert (admitted.groupby("step").size() == run.rounds.set_index("step").participants).all()
    assert (run.updates.arrived_s >= run.updates.dispatched_s).all()
    assert summary["uplink_bytes"] == run.rounds.uplink_bytes.iloc[-1]
    assert (run.rounds.uplink_bytes.diff().dropna() >= 0).all() and len(run.rounds) == summary["steps"] == 6
    assert admitted.uplink_bytes.unique().tolist() == [4 * 650]
    means = admitted.groupby("step").staleness.mean()
    assert run.rounds.set_index("step").staleness_mean.to_numpy() == pytest.approx(means.to_numpy())


def test_over_selection_and_deadlines(tmp_path: Path) -> None:
    over = {"kind": "fixed", "cohort_size": 4, "over_selection": 1.5}
    run_to_end(small(sampling=over), tmp_path / "over")
    run = fedopt.open_run(tmp_path / "over")
    assert (run.rounds.participants == 4).all() and (run.updates.status == "rejected").sum() == 12
    late = {"kind": "fixed", "cohort_size": 4, "deadline_s": 0.5}
    run_to_end(small(sampling=late), tmp_path / "late")
    run = fedopt.open_run(tmp_path / "late")
    assert (run.rounds.time_s.diff().dropna() <= 0.5 + 1e-9).all() and (run.updates.status == "lost").any()


def test_time_limit_and_target(tmp_path: Path) -> None:
    summary = run_to_end(small(run={"time_s": 4.0, "checkpoint_every": 2}), tmp_path / "time")
    assert summary["status"] == "finished" and fedopt.open_run(tmp_path / "time").rounds.time_s.max() <= 4.0
    target = {"target_metric": 0.5, "server_steps": 100, "evaluate_every": 1}
    summary = run_to_end(small(run=target), tmp_path / "target")
    assert summary["steps"] < 100 and summary["final_metric"] >= 0.5 and "target metric" in summary["reason"]


def test_streams_are_named_and_independent() -> None:
    assert rng.generator(0, "a").random() != rng.generator(0, "b").random()
    assert rng.key(1, "a", 2) != rng.key(12, "a")


def test_the_evaluation_after_an_early_stop_may_be_the_best(tmp_path: Path) -> None:
    scenario = small(run={"server_steps": 100, "time_s": 5.0, "evaluate_every": 1000})
    summary = run_to_end(scenario, tmp_path / "run")
    assert 0 < summary["steps"] < 100 and summary["final_metric"] is not None
    assert (summary["best_metric"], summary["best_step"]) == (summary["final_metric"], summary["steps"])


def test_speed_after_a_resume_leaves_out_the_clients_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_finish", lambda self, ended: (_ for _ in ()).throw(Interrupt))
    first = Session(small(run__server_steps=5), tmp_path / "run", quiet=True)
    with pytest.raises(Interrupt):
        first.run()
    monkeypatch.undo()
    again = Session(small(run__server_steps=5), tmp_path / "run", quiet=True)
    again.run(resume=True)
    assert first.progress.clients_before == 0
    assert again.progress.clients_before == 16, "four rounds of four clients before the checkpoint"
