"""`fedopt compare`, `verify` and `export` as a user meets them: exit codes and words. No torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison.fabricated import fabricate
from typer.testing import CliRunner

from fedopt.cli import app


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_compare_directories(tmp_path: Path) -> None:
    runs = [
        str(fabricate(tmp_path / f"{lr}-{seed}", [0.1, 0.5 + lr + 0.01 * seed], seed, scenario={"lr": lr}))
        for lr in (0.1, 0.3)
        for seed in (0, 1, 2)
    ]
    code, out, _ = call("compare", *runs, "--out", str(tmp_path / "out"))
    assert code == 0
    lines = out.strip().splitlines()
    assert lines[0] == "Against made, lr 0.1: made, lr 0.3 (+0.2) is better."
    assert Path(lines[-1].removeprefix("report: ")).read_text().count("data-plot=") >= 3
    code, _, errors = call("compare", *runs, "--out", str(tmp_path / "out"), "--baseline", "nobody")
    assert code == 2 and "'nobody' is no method; found: made, lr 0.1, made, lr 0.3." in errors


def test_comparisons_of_directories_do_not_replace_each_other(tmp_path: Path) -> None:
    runs = [str(fabricate(tmp_path / f"r{seed}", [0.1, 0.5], seed)) for seed in range(6)]

    def folder(*arguments: str) -> Path:
        code, out, _ = call("compare", *arguments, "--out", str(tmp_path / "out"))
        assert code == 0
        return Path(out.strip().splitlines()[-1].removeprefix("report: ")).parent

    one, two, judged = folder(runs[0]), folder(*runs), folder(*runs, "--delta", "0.001")
    assert len({one, two, judged}) == 3 == len(list((tmp_path / "out").iterdir()))
    assert folder(*runs[::-1]) == two, "the same runs are the same comparison"
    assert one.parent == tmp_path / "out" and one.name.startswith("compare-")
    assert f"Made by `fedopt compare {runs[0]}`;" in (one / "compare.md").read_text()
    said = (judged / "compare.md").read_text()
    assert f"{runs[3]} --delta 0.001 (and 2 more run directories, see Runs)`;" in said


def test_an_unfinished_run_is_said_to_be_one_everywhere(tmp_path: Path) -> None:
    runs = [
        fabricate(tmp_path / f"r{seed}", [0.1, 0.5 + 0.01 * seed], seed, status=("finished", "running")[seed == 2])
        for seed in (0, 1, 2)
    ]
    code, out, _ = call("compare", *map(str, runs), "--out", str(tmp_path / "out"))
    page = Path(out.strip().splitlines()[-1].removeprefix("report: "))
    said = "1 of 3 runs have not finished (still running, or killed): made, seed 2."
    assert code == 0 and out.startswith(said)
    assert said in page.read_text() and said in page.with_suffix(".md").read_text()
    assert "| made | 2 of 3 (1 unfinished) | 0.505 |" in page.with_suffix(".md").read_text()


def test_problems_of_a_file_exit_with_2(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: c\nbase: missing.yaml\nvariants: {a: {}}\n")
    code, _, errors = call("compare", str(path), "--out", str(tmp_path / "out"))
    assert code == 2 and f"{path}:2:1: base: {tmp_path / 'missing.yaml'}: cannot be read" in errors
    assert not (tmp_path / "out").exists()
    run = fabricate(tmp_path / "run", [0.5])
    code, _, errors = call("compare", str(path), str(run))
    assert code == 2 and "give one comparison file or run directories, not both" in errors


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    fabricate(tmp_path / "runs" / "run", [0.5])
    for folder, remedy in (
        (tmp_path, "give run directories, or one comparison file"),
        (tmp_path / "runs", "its folders"),
    ):
        code, _, errors = call("compare", str(folder), "--out", str(tmp_path / "out"))
        assert code == 2 and errors.startswith(f"{folder}: holds no run; {remedy}") and errors.count("\n") == 1
    code, _, errors = call("verify", str(tmp_path))
    assert code == 2 and "holds no finished run" in errors
    code, _, errors = call("export", str(tmp_path), "--tensorboard", str(tmp_path / "events"))
    assert code == 2 and "holds no run" in errors


def test_export_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat.proto.event_pb2", None)
    code, _, errors = call("export", str(fabricate(tmp_path / "r", [0.5])), "--tensorboard", str(tmp_path / "e"))
    assert code == 2 and "install fedopt[tensorboard]" in errors
