"""What a user is told when something of their own fails, is missing or is interrupted."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import fedopt.cli
from fedopt.runlog import read_rounds
from fedopt.scenario_file import parse_override
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
    for error in (KeyError, ValueError):  # the second is also what a wrong scenario raises
        (tmp_path / "bug.py").write_text(RAISING.replace('return found["x"]', f"raise {error.__name__}"))
        monkeypatch.delitem(sys.modules, "bug")
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "argv", ["fedopt", *words])
        with pytest.raises(error):
            fedopt.cli.main()


@pytest.mark.parametrize(
    "setting, place",
    [
        ("data={kind: npz, path: nowhere.npz}", "data: npz: not found in nowhere.npz"),
        ("data={kind: table, path: empty.csv, target_column: y, clients: 9}", "data: empty.csv holds no table: "),
        (
            "data={kind: npz, path: empty.csv}",
            "data: empty.csv is not an .npz file; save plain arrays with numpy.savez",
        ),
        ("model={kind: char_lstm}", "model: model char_lstm is for next_token"),
    ],
)
def test_what_does_not_fit_is_told_with_its_section_and_line(
    setting: str, place: str, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("")
    words = ["simulate", str(scenario), "--quiet", "--out", "reports"]
    code, errors = tell(monkeypatch, capsys, *words, "--set", setting)
    key, _, message = place.partition(": ")
    assert code == 2 and errors.startswith(f"--set {setting}: {message}") and len(errors.splitlines()) == 1
    _, value = parse_override(setting)
    scenario.write_text(to_yaml(mapping(**{key: value})))
    code, errors = tell(monkeypatch, capsys, *words)
    line = next(i for i, text in enumerate(scenario.read_text().splitlines(), 1) if text.startswith(f"{key}:"))
    assert code == 2 and errors.startswith(f"{scenario}:{line}:1: {place}") and len(errors.splitlines()) == 1
    code, changed = tell(monkeypatch, capsys, *words, "--set", f"{key}.kind={value['kind']}")
    assert code == 2 and changed == errors.replace(".\n", f" (with --set {key}.kind={value['kind']}).\n")
    assert not (tmp_path / "reports").exists() or not list((tmp_path / "reports").rglob("scenario.yaml"))


def test_a_resumed_run_takes_no_changes(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = tell(monkeypatch, capsys, "simulate", str(tmp_path), "--resume", "--set", "run.server_steps=80")
    assert code == 2
    assert errors == f"{tmp_path}: a run goes on as it began, so run.server_steps cannot change; start a new run.\n"


def test_a_comparison_given_to_simulate_is_told_from_a_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: c\nbase: s.yaml\nvariants: {A: {}}\n")
    code, errors = tell(monkeypatch, capsys, "simulate", str(file))
    assert code == 2
    assert errors == f"{file}:1: this is a comparison, not a scenario; run it with: fedopt compare {file}.\n"


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


@pytest.mark.parametrize(
    "words, line",
    [
        (["--set", "client.lr=abc"], "--set client.lr=abc: must be a valid number, got 'abc'."),
        (["--set", "client.lrr=3"], "--set client.lrr=3: unknown option of client: sgd; did you mean lr?"),
        (
            ["--set", "client.learning_rate=3"],
            "--set client.learning_rate=3: unknown option of client: sgd; did you mean lr?",
        ),
        (
            ["--set", "data.partition.alpha=1", "--set", "data.partition.kind=iid"],
            "--set data.partition.alpha=1: unknown option of data.partition: iid; it has none.",
        ),
        (
            ["--set", "client.batch_size=fulll"],
            "--set client.batch_size=fulll: must be whole number or full, got 'fulll'; did you mean full?",
        ),
        (["--set", "client.batch_size=2.5"], "--set client.batch_size=2.5: must be whole number or full, got 2.5."),
        (["--set", "engine.chunk=[1]"], "--set engine.chunk=[1]: must be whole number or auto, got [1]."),
        (["--set", "name=a b"], "--set name=a b: must be of letters, digits, '.', '_' and '-' only, got 'a b'."),
        (
            ["--set", "data={kind: user_function, function: a.B}"],
            "--set data={kind: user_function, function: a.B}: function: must be package.module:name, got 'a.B'.\n"
            "--set data={kind: user_function, function: a.B}: dimension: is required.",
        ),
        (["--set", "run.rounds=3"], "--set run.rounds=3: unknown option of run; did you mean server_steps?"),
        (["--seed", "-1"], "--seed -1: must be >= 0, got -1."),
        (["--seed", "x"], "fedopt: Invalid value for '--seed': 'x' is not a valid integer."),
        (["--device", "gpu"], "--device gpu: must be one of 'auto', 'cpu' or 'cuda', got 'gpu'; did you mean cuda?"),
    ],
)
def test_an_option_that_is_wrong_is_named_on_one_line(
    words: list[str],
    line: str,
    scenario: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tell(monkeypatch, capsys, "validate", str(scenario), *words) == (2, line + "\n")


def test_a_section_set_whole_names_the_key_inside(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, errors = tell(monkeypatch, capsys, "validate", str(scenario), "--set", "client={kind: sgd, steps: 1, lr: abc}")
    assert errors == "--set client={kind: sgd, steps: 1, lr: abc}: lr: must be a valid number, got 'abc'.\n"


def test_a_command_that_does_not_exist_is_one_line_with_one_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = tell(monkeypatch, capsys, "simulat")
    assert code == 2 and errors.count("Did you mean") == 1 and errors.count("\n") == 1


def test_without_a_command_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fedopt"])
    with pytest.raises(SystemExit):
        fedopt.cli.main()
    shown = capsys.readouterr()
    assert "simulate" in shown.out + shown.err


@pytest.mark.parametrize("words", [["verify"], ["report"], ["export", "--tensorboard", "events"]])
def test_a_directory_that_does_not_exist_is_said_to_be_missing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nothere"
    expected = f"{missing}: no such directory; give the directory of a run.\n"
    assert tell(monkeypatch, capsys, *words, str(missing)) == (2, expected)


def test_a_scenario_given_to_compare_is_called_one(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = tell(monkeypatch, capsys, "compare", str(scenario))
    assert code == 2 and errors.count("\n") == 1
    assert errors.startswith(
        f"{scenario}: this is a scenario, not a comparison; run it with `fedopt simulate {scenario}`"
    )


def test_accountants_can_be_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fedopt", "list", "accountants"])
    with pytest.raises(SystemExit):
        fedopt.cli.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["pld", "rdp"]


def test_a_component_that_ends_the_process_is_a_failure(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bug_in(tmp_path, monkeypatch)
    (tmp_path / "bug.py").write_text(RAISING.replace('return found["x"]', "raise SystemExit(7)"))
    words = ["simulate", str(scenario), "--quiet", "--set", "aggregator={kind: 'bug:Bug'}"]
    code, errors = tell(monkeypatch, capsys, *words)
    (directory,) = (tmp_path / "reports" / "small").iterdir()
    assert code == 1
    assert errors == (
        f"bug:Bug.step failed: SystemExit: 7 ({tmp_path / 'bug.py'}:17); FEDOPT_TRACEBACK=1 shows the traceback; "
        f"go on with: fedopt simulate {directory.relative_to(tmp_path)} --resume\n"
    )
    monkeypatch.setattr("fedopt.cli.app", lambda **_: sys.modules["bug"].look_up({}))
    code, errors = tell(monkeypatch, capsys)  # in any other command
    assert code == 1 and "failed: SystemExit: 7" in errors
