"""`fedopt replay` keeps to the command line's conventions: 0 equal, 1 different, 2 and one line for bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from zeroth_order_runs import COMFL, SPSA, scenario

import fedopt
import fedopt.cli

DAMAGED = "the seed log is cut short or damaged after"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fedopt.simulate(scenario(SPSA, COMFL, steps=3), out=tmp_path_factory.mktemp("runs")).directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fedopt", "replay", *words])
    with pytest.raises(SystemExit) as ended:
        fedopt.cli.main()
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_a_replayed_model_is_the_runs_or_is_not(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert tell(monkeypatch, capsys, str(run)) == (0, f"{summary['model_sha256']} equals the model of the run\n", "")
    (run / "summary.json").write_text(json.dumps({**summary, "model_sha256": "0" * 64}))
    code, out, errors = tell(monkeypatch, capsys, str(run))
    assert (code, out, errors) == (1, f"{summary['model_sha256']} differs from the model of the run\n", "")


def test_what_cannot_be_replayed_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, described = run / "seed_log.bin", run / "scenario.yaml"
    whole, text = log.read_bytes(), described.read_text()
    other = text.replace("dimension: 12", "dimension: 13")
    assert other != text
    cases = [
        (b"", text, "these bytes are not a seed log"),
        (whole[:9], text, f"{DAMAGED} 0 of 0 records"),
        (whole[:8] + b"\xff" + whole[9:], text, f"{DAMAGED} 0 of 3 records"),
        (whole[:9] + b"\xff" + whole[10:], text, f"{DAMAGED} 0 of 3 records"),
        (whole[:-1], text, f"{DAMAGED} 2 of 3 records"),
        (whole + b"\0", text, f"{DAMAGED} 3 of 3 records"),
        (whole, other, "the seed log is of 12 parameters, the scenario's model has 13"),
    ]
    for data, written, told in cases:
        log.write_bytes(data)
        described.write_text(written)
        assert tell(monkeypatch, capsys, str(run)) == (2, "", f"{run}: {told}\n")
    described.unlink()
    code, _, errors = tell(monkeypatch, capsys, str(run))
    assert code == 2 and errors == f"{described}: cannot be read: No such file or directory.\n"
    log.unlink()
    code, _, errors = tell(monkeypatch, capsys, str(run))
    assert code == 2 and errors.startswith(f"{run} has no seed_log.bin: ") and errors.count("\n") == 1
    missing = run / "nowhere"
    told = f"{missing}: no such directory; give the directory of a run.\n"
    assert tell(monkeypatch, capsys, str(missing)) == (2, "", told)


def test_a_summary_that_names_no_model_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((run / "summary.json").read_text())
    del summary["model_sha256"]
    (run / "summary.json").write_text(json.dumps(summary))
    told = f"{run}: summary.json has no model_sha256 to compare with; the run is not finished\n"
    assert tell(monkeypatch, capsys, str(run)) == (2, "", told)


def test_the_module_is_the_command() -> None:
    def module(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "fedopt.replay", *words], capture_output=True, text=True)

    shown, missing = module("--help"), module("nowhere")
    assert shown.returncode == 0 and "fedopt replay [OPTIONS] DIRECTORY" in shown.stdout
    assert missing.returncode == 2
    assert missing.stderr == "nowhere: no such directory; give the directory of a run.\n"
