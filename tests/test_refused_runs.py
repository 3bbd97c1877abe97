"""A run that is refused as it starts leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedopt
from fedopt.runlog import read_rounds, withdrawn_if_refused

CALLS = {"wrong_from": 0, "made": 0}


def shapeless_later(client: int, point: Any) -> Any:
    """A bowl that after some calls returns something that is not a number."""
    CALLS["made"] += 1
    return (point**2).sum() if CALLS["made"] <= CALLS["wrong_from"] else "a word"


def body(**data: Any) -> dict[str, Any]:
    return {
        "name": "refused",
        "data": {"kind": "user_function", "function": f"{__name__}:shapeless_later", "dimension": 3, **data},
        "model": {"kind": "point"},
        "client": {"kind": "finite_difference", "count": 2, "local_steps": 1},
        "run": {"server_steps": 4, "evaluate_every": 1},
        "engine": {"device": "cpu", "threads": 1},
    }


def run(out: Path, usable_calls: int, **data: Any) -> None:
    CALLS.update(wrong_from=usable_calls, made=0)
    fedopt.simulate(fedopt.scenario.from_mapping(body(**data)), out)


@pytest.mark.parametrize("existing", [False, True])
def test_a_run_without_a_finished_step_is_removed_with_the_folders_made_for_it(tmp_path: Path, existing: bool) -> None:
    out = tmp_path / "deep" / "out"
    if existing:
        (out / "refused").mkdir(parents=True)
    with pytest.raises(ValueError, match="returned 'a word', not a number"):
        run(out, usable_calls=3)
    assert (list((out / "refused").iterdir()) == []) if existing else not (tmp_path / "deep").exists()


def test_finished_steps_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="returned 'a word', not a number"):
        run(tmp_path, usable_calls=5 * (4 + 1) + 3)  # five clients with four queries, F of five clients; then a few
    (directory,) = (tmp_path / "refused").iterdir()
    assert read_rounds(directory).num_rows == 1


def test_a_folder_that_others_use_meanwhile_and_one_that_was_there_stay(tmp_path: Path) -> None:
    directory = tmp_path / "name" / "run"

    def refused() -> None:
        with withdrawn_if_refused(directory, lambda error: isinstance(error, ValueError)):
            directory.mkdir(parents=True, exist_ok=True)
            (directory.parent / "other").mkdir(exist_ok=True)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        refused()
    assert [path.name for path in directory.parent.iterdir()] == ["other"]
    directory.mkdir()
    with pytest.raises(ValueError, match="no"):
        refused()
    assert directory.exists()


def test_what_is_no_refusal_keeps_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with pytest.raises(KeyError), withdrawn_if_refused(directory, lambda error: isinstance(error, ValueError)):
        directory.mkdir()
        raise KeyError("of fedopt's own")
    assert directory.exists()
