"""kill -9 at seeded moments, real processes: what resumes ends with the same tables and the same model."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import fedopt
from fedopt.yaml_writer import to_yaml
from scenarios import BUFFERED, mapping

pytestmark = pytest.mark.slow  # real processes: a minute and more

# Long enough that kills fall into start-up, steps, checkpoints and the conversion at the end.
CHANGES = {**BUFFERED, "run": {"server_steps": 40, "evaluate_every": 10, "checkpoint_every": 3}}


def command(scenario: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "fedopt", "simulate", str(scenario), "--out", str(out), "--quiet", "--resume"]


def finished(out: Path) -> Path | None:
    found = [d for d in out.glob("*/*") if (d / "report.html").exists() and not (d / "rounds.jsonl").exists()]
    return found[0] if found else None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    folder = tmp_path_factory.mktemp("whole")
    scenario = folder / "s.yaml"
    scenario.write_text(to_yaml(mapping(**CHANGES)))
    started = time.monotonic()
    subprocess.run(command(scenario, folder / "out"), check=True, capture_output=True, timeout=300)
    directory = finished(folder / "out")
    assert directory is not None
    return scenario, directory, time.monotonic() - started


def kill_and_resume(whole: tuple[Path, Path, float], tmp_path: Path, seed: int, kills: int) -> None:
    scenario, reference, duration = whole
    luck = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen(command(scenario, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(luck.uniform(0.4, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(scenario, tmp_path), check=True, capture_output=True, timeout=300)
    runs = list((tmp_path / "small").iterdir())
    ended = [fedopt.open_run(d) for d in runs if (d / "summary.json").exists()]
    complete = [run for run in ended if run.summary["status"] == "finished"]
    assert complete, [run.summary for run in ended]
    original = fedopt.open_run(reference)
    for run in complete:
        assert run.summary["model_sha256"] == original.summary["model_sha256"]
        pd.testing.assert_frame_equal(run.rounds.drop(columns="wall_s"), original.rounds.drop(columns="wall_s"))
        pd.testing.assert_frame_equal(run.updates, original.updates)
        pd.testing.assert_frame_equal(run.clients, original.clients)


def test_a_killed_run_resumes(whole: tuple[Path, Path, float], tmp_path: Path) -> None:
    kill_and_resume(whole, tmp_path, seed=0, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 19))
def test_a_killed_run_resumes_at_many_points(whole: tuple[Path, Path, float], tmp_path: Path, seed: int) -> None:
    kill_and_resume(whole, tmp_path, seed=seed, kills=1 + seed % 3)


@pytest.mark.parametrize("where", ["checkpoint", "conversion", "report"])
def test_a_kill_inside_a_checkpoint_or_the_final_conversion(
    whole: tuple[Path, Path, float], tmp_path: Path, where: str
) -> None:
    """The process ends without any clean-up in the middle of writing one of the files."""
    scenario, reference, _ = whole
    program = f"""
import os, sys
from pathlib import Path
from fedopt.simulation import checkpoint
import fedopt.runlog.writer as writer
import fedopt.report
where, calls = {where!r}, [0]
original = checkpoint.save
def save(path, tree):
    calls[0] += 1
    if where == "checkpoint" and calls[0] == 7:
        Path(str(path) + ".part").write_bytes(b"half")
        os._exit(9)
    original(path, tree)
checkpoint.save = save
convert = writer._write_updates
def dying(temporary, batches):
    if where == "conversion":
        temporary.write_bytes(b"half")
        os._exit(9)
    convert(temporary, batches)
writer._write_updates = dying
if where == "report":
    fedopt.report.write_report = lambda directory: os._exit(9)
import fedopt
fedopt.simulate({str(scenario)!r}, out={str(tmp_path)!r})
"""
    died = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=300)
    assert died.returncode == 9, died.stderr[-500:]
    directory = next((tmp_path / "small").iterdir())
    subprocess.run(
        [sys.executable, "-m", "fedopt", "simulate", str(directory), "--quiet"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    run, original = fedopt.open_run(directory), fedopt.open_run(reference)
    assert run.summary["status"] == "finished" and run.report.exists()
    assert run.summary["model_sha256"] == original.summary["model_sha256"]
    pd.testing.assert_frame_equal(run.rounds.drop(columns="wall_s"), original.rounds.drop(columns="wall_s"))
    pd.testing.assert_frame_equal(run.updates, original.updates)
