"""kill -9 at seeded moments, real processes: what resumes ends with the same tables and the same model."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pandas as pd
import pytest
from killed_run import start

import fedopt
from fedopt.yaml_writer import to_yaml
from scenarios import BUFFERED, mapping

# Long enough that kills fall into start-up, steps, checkpoints and the conversion at the end.
CHANGES = {**BUFFERED, "run": {"server_steps": 40, "evaluate_every": 10, "checkpoint_every": 3}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, fedopt.Run, float]:
    """The scenario, its uninterrupted run and how long that took (a second process: the fork server is up)."""
    folder = tmp_path_factory.mktemp("whole")
    scenario = folder / "s.yaml"
    scenario.write_text(to_yaml(mapping(**CHANGES)))
    to_the_end(scenario, folder / "first")
    started = time.monotonic()
    run = to_the_end(scenario, folder / "second")
    return scenario, run, time.monotonic() - started


def to_the_end(scenario: Path, out: Path) -> fedopt.Run:
    process = start(scenario, out)
    process.join(300)
    assert process.exitcode == 0
    # What was killed is resumed, not left beside a new run. (A kill that came after the end leaves a complete one.)
    runs = [fedopt.open_run(d) for d in (out / "small").iterdir() if (d / "scenario.yaml").exists()]
    assert runs and all(run.report.exists() and run.summary["status"] == "finished" for run in runs)
    return max(runs, key=lambda run: run.directory.name)


def assert_equal(run: fedopt.Run, original: fedopt.Run) -> None:
    assert run.summary["status"] == "finished" and run.report.exists()
    assert run.summary["model_sha256"] == original.summary["model_sha256"]
    pd.testing.assert_frame_equal(run.rounds.drop(columns="wall_s"), original.rounds.drop(columns="wall_s"))
    pd.testing.assert_frame_equal(run.updates, original.updates)
    pd.testing.assert_frame_equal(run.clients, original.clients)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.slow if seed >= 2 else ()) for seed in range(10)]
)
def test_a_run_killed_twice_resumes(whole: tuple[Path, fedopt.Run, float], tmp_path: Path, seed: int) -> None:
    """Twenty points: ten seeds, two kills each."""
    scenario, original, duration = whole
    luck = random.Random(seed)
    for _ in range(2):
        process = start(scenario, tmp_path)
        time.sleep(luck.uniform(0.0, 1.0) * duration)
        process.kill()
        process.join()
    assert_equal(to_the_end(scenario, tmp_path), original)


@pytest.mark.parametrize("where", ["checkpoint", "conversion", "report"])
def test_a_kill_inside_a_checkpoint_or_at_the_end(
    whole: tuple[Path, fedopt.Run, float], tmp_path: Path, where: str
) -> None:
    scenario, original, _ = whole
    process = start(scenario, tmp_path, die_in=where)
    process.join(300)
    assert process.exitcode == 9
    assert_equal(to_the_end(scenario, tmp_path), original)
