"""What a person sees while a comparison runs."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedopt.comparison.expansion import Cell, PlannedRun
from fedopt.comparison.runs import execute
from fedopt.comparison.view import View, steps_made
from scenarios import small


def plan(name: str, seed: int = 0) -> PlannedRun:
    return PlannedRun(Cell("", name), seed, small(seed=seed, run__server_steps=2, name=name))


def directory(folder: Path, name: str, steps: int) -> Path:
    (folder / name).mkdir()
    if steps:
        (folder / name / "rounds.jsonl").write_text("{}\n" * steps + '{"cut sho')
    return folder / name


def test_steps_are_counted_by_whole_lines(tmp_path: Path) -> None:
    assert steps_made(directory(tmp_path, "a", 3)) == 3
    assert steps_made(directory(tmp_path, "b", 0)) == 0


def test_runs_under_way_are_followed_in_their_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [directory(tmp_path, name, 0) for name in "abcd"]
    with View(folders, [10, 10, 10, None], reused=2, quiet=False, later=1, every_s=0.05) as view:
        (folders[0] / "rounds.jsonl").write_text("{}\n" * 5)
        (folders[1] / "rounds.jsonl").write_text("{}\n" * 4)
        time.sleep(0.5)
        view.show(folders[2], "C", "failed", 1.0, "no such data")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "4 runs to execute, 2 reused; then at most 1 more"
    assert re.fullmatch(r"\.\.\. 9 server steps made in 2 runs under way; about [\d:]+ left", said[1])
    assert re.fullmatch(r"\[1/4\] C: failed: no such data \(1\.0 s\); about [\d:]+ left", said[-1])


def test_time_left_counts_what_was_made_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed, new = directory(tmp_path, "resumed", 6), directory(tmp_path, "new", 0)
    now = iter([0.0, 60.0])
    monkeypatch.setattr("fedopt.comparison.view.time.monotonic", lambda: next(now))
    view = View([resumed, new], [10, 10], reused=0, quiet=False)
    (resumed / "rounds.jsonl").write_text("{}\n" * 8)  # two of ten in the first minute
    (new / "rounds.jsonl").write_text("{}\n" * 8)
    assert view._left() == "; about 1:00 left"  # one of two runs' work was done in a minute
    capsys.readouterr()


def test_quiet_says_nothing_and_a_real_comparison_ends_without_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute([plan("A")], tmp_path, quiet=True)
    assert capsys.readouterr().err == ""
    execute([plan("A"), plan("B", 1)], tmp_path, quiet=False)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "1 runs to execute, 1 reused" and said[-1].startswith("[1/1] B, seed 1: executed, finished")
    assert "left" not in said[-1]


def test_trials_are_told_apart_by_what_they_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = replace(plan("A"), chosen=(("client.lr", 0.2), ("client.epochs", 1)))
    execute([trial], tmp_path, quiet=False)
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("[1/1] A, seed 0, client.lr 0.2, client.epochs 1: executed, finished")
