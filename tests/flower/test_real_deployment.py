"""Deployments on real processes. One runs every day; the others take minutes and run with the slow tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from faults import KINDS
from real import PATIENT, deploy_real, short, wait_for_step

from fedopt.api import Run, simulate
from fedopt.flower import watchdog
from fedopt.flower.deploy import follow
from fedopt.flower.export import export_app
from fedopt.flower.processes import FlowerProcessError, LocalFederation
from fedopt.runlog.reader import read_running_rounds

PRIVATE = {
    "unit": "client",
    "relation": "zero_out_one",
    "mechanism": {"kind": "gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0},
}


def test_a_real_deployment_gives_the_simulated_model(tmp_path: Path) -> None:
    chosen = short()
    run = deploy_real(chosen, tmp_path, replay=True)
    simulated = simulate(chosen, tmp_path / "simulated")
    assert run.summary["status"] == "finished" and run.summary["warnings"] == []
    assert run.summary["model_sha256"] == simulated.summary["model_sha256"]  # bit for bit
    assert set(run.updates.status) == {"admitted"} and len(run.updates) == 4
    assert (run.directory / "report.html").exists() and "Predicted against real" in run.report.read_text()
    rows = json.loads((run.directory / "prediction.json").read_text())["rows"]
    assert [row["real_metric"] for row in rows] == [row["predicted_metric"] for row in rows]
    # The replay repeats transit and work; the server's own time between rounds, long on a busy machine, is not in it.
    assert 0 < rows[-1]["predicted_time_s"] <= rows[-1]["real_time_s"] + 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "dies"])
def test_a_bad_client_is_never_aggregated(kind: str, tmp_path: Path) -> None:
    run = deploy_real(short(), tmp_path, fault=kind)
    rows = run.updates
    assert run.summary["status"] == "finished"
    assert set(rows[rows.client_id == 0].status) == ({"lost"} if kind in ("raises", "dies") else {"failed"})
    assert set(rows[rows.client_id == 1].status) == {"admitted"}


@pytest.mark.slow
def test_a_client_that_never_answers_is_lost(tmp_path: Path) -> None:
    run = deploy_real(short(), tmp_path, fault="hangs", **{"reply-s": 60.0})
    rows = run.updates
    assert run.summary["status"] == "finished"
    assert set(rows[rows.client_id == 0].status) == {"lost"}


@pytest.mark.slow
def test_a_killed_supernode_is_lost_and_welcome_back(tmp_path: Path) -> None:
    def break_it(federation: LocalFederation, directory: Path) -> None:
        wait_for_step(directory, 1)
        federation.processes.kill("supernode-0")
        wait_for_step(directory, 3)
        federation.start_node(0)

    run = deploy_real(short(steps=8), tmp_path, during=break_it, **{"reply-s": 60.0})
    assert run.summary["status"] == "finished" and run.summary["steps"] == 8
    rows = run.updates
    assert "lost" in set(rows[rows.client_id == 0].status)
    assert any("left" in warning for warning in run.summary["warnings"])


@pytest.mark.slow
def test_a_lost_superlink_ends_with_a_message_and_the_run_resumes(tmp_path: Path) -> None:
    """What was shown before the fault is there after it, and paid for; what was under way is lost."""
    chosen = short(steps=3, privacy={**PRIVATE, "max_participations": 5})

    def break_it(federation: LocalFederation, directory: Path) -> None:
        wait_for_step(directory, 1)
        federation.processes.kill("superlink")

    with pytest.raises(FlowerProcessError, match="superlink ended with exit code"):
        deploy_real(chosen, tmp_path, during=break_it)
    lines = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    shown = [(row["step"], row["epsilon"], row["participants"]) for row in map(json.loads, lines)]
    app = tmp_path / "again"
    app.mkdir()
    (app / "run").symlink_to(tmp_path / "run")
    run = deploy_real(chosen, app, resume=True)
    assert run.summary["status"] == "finished" and run.summary["steps"] == 3
    again = run.rounds[["step", "epsilon", "participants"]].itertuples(index=False, name=None)
    assert list(again)[: len(shown)] == shown and shown[0][2] == 2
    private = json.loads((run.directory / "privacy.json").read_text())
    admitted = run.updates.query("status == 'admitted'").client_id.value_counts()
    assert private["charged"] == [[{"event": {"kind": "gaussian", "noise_multiplier": 1.0}, "count": admitted.max()}]]
    assert run.summary["epsilon"] >= shown[-1][1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_superlink_restarted_in_place_ends_the_run_which_goes_on_when_resumed(
    sent: signal.Signals, tmp_path: Path
) -> None:
    """Flower ends a run with its SuperLink. The restarted one knows its nodes, and they find it again by themselves."""
    chosen = short(steps=4, privacy={**PRIVATE, "max_participations": 10})
    app, directory = export_app(chosen, tmp_path / "app"), tmp_path / "run"
    config = {"out": str(directory), **PATIENT}
    with LocalFederation(2, directory / "logs", keep_database=tmp_path / "link.db") as federation:
        federation.submit(app, config)
        wait_for_step(directory, 1)
        federation.processes.kill("superlink", sent)
        federation.start_superlink()
        with pytest.raises(FlowerProcessError, match=r"the run ended before it was finished(.|\n)*go on with --resume"):
            follow(federation, directory, chosen, quiet=True)
        shown = [(row["step"], row["epsilon"]) for row in read_running_rounds(directory)]
        federation.submit(app, {**config, "resume": True})
        follow(federation, directory, chosen, quiet=True)
        for node in range(2):
            federation.processes.require(f"supernode-{node}")
    run = Run(directory)
    assert run.summary["status"] == "finished" and run.summary["steps"] == 4
    assert list(run.rounds[["step", "epsilon"]].itertuples(index=False, name=None))[: len(shown)] == shown
    status = run.updates.status.value_counts()
    assert status.get("lost", 0) <= 2 and status["admitted"] + status.get("lost", 0) == 8
    private = json.loads((directory / "privacy.json").read_text())
    admitted = run.updates.query("status == 'admitted'").client_id.value_counts()
    assert private["charged"] == [[{"event": {"kind": "gaussian", "noise_multiplier": 1.0}, "count": admitted.max()}]]


@pytest.mark.slow
def test_replies_that_come_twice_are_rows_and_change_nothing(tmp_path: Path) -> None:
    chosen = short(steps=3)
    run = deploy_real(chosen, tmp_path, fault="duplicates")
    counts = run.updates.status.value_counts()
    assert counts["admitted"] == 6 and counts["duplicate"] >= 4
    assert run.summary["model_sha256"] == simulate(chosen, tmp_path / "simulated").summary["model_sha256"]


def test_everything_is_stopped_when_the_deployment_is_killed(tmp_path: Path) -> None:
    """Also what started a session of its own, as ServerApps do."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom fedopt.flower.processes import Processes, environment\n"
        f"with Processes(Path({str(tmp_path)!r}), environment(Path({str(tmp_path)!r}))) as p:\n"
        "    p.start('tree', ['bash', '-c', 'setsid sleep 300 & sleep 300'])\n"
        "    print(p.mark, flush=True)\n    time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    mark = parent.stdout.readline().strip()
    end = time.monotonic() + 30
    while len(watchdog.marked(mark)) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(watchdog.marked(mark)) == 3
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 30
    while watchdog.marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert watchdog.marked(mark) == []
