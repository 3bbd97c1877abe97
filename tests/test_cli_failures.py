"""What a user is told when something of their own fails, is missing or is interrupted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import fedopt.cli
from fedopt.runlog import read_rounds
from fedopt.simulation.session import Session
from fedopt.yaml_writer import to_yaml
from scenarios import mapping

RAISING = """\
from typing import Any

from fedopt.aggregators.fedavg import FedAvg

CALLS = []

class Bug(FedAvg):
    \"\"\"Fails in its fourth step.\"\"\"

    def step(self, state: Any, released: Any, public: Any) -> Any:
        CALLS.append(1)
        if len(CALLS) > 3:
            return look_up({})
        return super().step(state, released, public)

def look_up(found: Any) -> Any:
    return found["x"]
"""


def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The entry point as started by a shell: exit code and standard error."""
    monkeypatch.setattr(sys, "argv", ["fedopt", *words])
    with pytest.raises(SystemExit) as ended:
        fedopt.cli.main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(mapping()))
    return path


def bug_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own in the current directory, which is on no import path yet."""
    (folder / "bug.py").write_text(RAISING)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    monkeypatch.delitem(sys.modules, "bug", raising=False)


def test_a_raising_component_of_the_users_own_is_one_line_and_its_rows_stay(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bug_in(tmp_path, monkeypatch)
    words = ["simulate", str(scenario), "--quiet", "--set", "aggregator={kind: 'bug:Bug'}"]
    code, errors = tell(monkeypatch, capsys, *words)
    (directory,) = (tmp_path / "reports" / "small").iterdir()
    assert code == 1
    assert errors == (
        f"bug:Bug.step failed: KeyError: 'x' ({tmp_path / 'bug.py'}:17); FEDOPT_TRACEBACK=1 shows the traceback; "
        f"go on with: fedopt simulate {directory.relative_to(tmp_path)} --resume\n"
    )
    assert [row["step"] for row in read_rounds(directory).to_pylist()] == [1, 2, 3]
    monkeypatch.setenv("FEDOPT_TRACEBACK", "1")
    with pytest.raises(KeyError):
        monkeypatch.setattr(sys, "argv", ["fedopt", *words])
        fedopt.cli.main()


def test_an_error_of_fedopts_own_keeps_its_traceback(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "_wall", lambda self: {"x": 0.0}["y"])
    monkeypatch.setattr("fedopt.own_code._is_own", lambda frame: False)  # this file is nobody's package
    monkeypatch.setattr(sys, "argv", ["fedopt", "simulate", str(scenario), "--quiet", "--out", str(tmp_path)])
    with pytest.raises(KeyError):
        fedopt.cli.main()


def test_nothing_to_resume_starts_nothing(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, errors = tell(monkeypatch, capsys, "simulate", str(scenario), "--quiet", "--out", str(out), "--resume")
    assert code == 2 and errors.startswith(f"--resume: nothing to resume: {out / 'small'} holds no unfinished run")
    assert errors.count("\n") == 1 and not out.exists()


def test_an_interrupted_run_says_how_to_go_on_and_does(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_step = Session._on_step

    def interrupted(self: Session, stepped: Any, metrics: dict[str, float]) -> str | None:
        if stepped.step == 5:
            raise KeyboardInterrupt
        return on_step(self, stepped, metrics)

    words = ["simulate", str(scenario), "--quiet", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_on_step", interrupted)
        code, errors = tell(monkeypatch, capsys, *words)
    (directory,) = (tmp_path / "out" / "small").iterdir()
    assert (code, errors) == (130, f"interrupted; go on with: fedopt simulate {directory} --resume\n")
    assert tell(monkeypatch, capsys, *words, "--resume") == (0, "")
    assert list((tmp_path / "out" / "small").iterdir()) == [directory] and (directory / "report.html").exists()


def test_an_interrupted_comparison_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedopt.comparison.compare", interrupted)
    code, errors = tell(monkeypatch, capsys, "compare", str(tmp_path))
    assert code == 130 and errors.startswith("interrupted; repeat the command") and errors.count("\n") == 1


def test_a_module_that_is_not_found_says_where_modules_are_looked_for(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = tell(monkeypatch, capsys, "validate", str(scenario), "--set", "aggregator={kind: 'nobug:Bug'}")
    assert code == 2 and "No module named 'nobug'; start fedopt in the folder of nobug" in errors
