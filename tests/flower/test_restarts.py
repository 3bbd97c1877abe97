"""A deployment that is cut off and resumed: nothing seen is forgotten, nothing is released twice."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from virtual_deployment import deploy, scenario, virtual_grid

from fedopt.api import Run, simulate
from fedopt.flower.under_way import UnderWay
from fedopt.simulation import checkpoint
from fedopt.simulation.session import Session

GAUSSIAN = {
    "unit": "client",
    "relation": "zero_out_one",
    "mechanism": {"kind": "gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0},
    "delta": 1e-5,
    "max_participations": 10,
}


class CutOff(Exception):
    """The machine loses power."""


def cutting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, before: bool) -> None:
    """Let the ``at``-th call of a function be the last thing that happens, or the first that does not."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = []

    def cut(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == at and before:
            raise CutOff
        found = real(*arguments)
        if len(calls) == at:
            raise CutOff
        return found

    monkeypatch.setattr(owner, name, cut)


def seen(folder: Path) -> list[tuple[int, float, int]]:
    """(step, epsilon, participants) of the steps that anybody could see."""
    rows = map(json.loads, (folder / "run" / "rounds.jsonl").read_text().splitlines())
    return [(row["step"], row["epsilon"], row["participants"]) for row in rows]


def steps(folder: Path) -> list[tuple[int, float, int]]:
    """The same of a finished run."""
    rounds = Run(folder / "run").rounds
    return list(rounds[["step", "epsilon", "participants"]].itertuples(index=False, name=None))


@pytest.mark.parametrize(
    "owner, name, at, before, visible, participants",
    [
        # The first checkpoint is written before the first messages, the second with step 1 and the messages of step 2.
        (checkpoint, "save", 2, True, 0, [0, 3, 3]),
        (checkpoint, "save", 2, False, 0, [3, 0, 3]),
        (UnderWay, "push", 2, True, 1, [3, 0, 3]),
        (checkpoint, "save", 4, True, 2, [3, 3, 0]),
        (checkpoint, "save", 4, False, 2, [3, 3, 3]),
        (Session, "_finish", 1, True, 3, [3, 3, 3]),
    ],
    ids=[
        "before a step is known",
        "before a step is seen",
        "before the next is sent",
        "before the last is known",
        "before the last is seen",
        "before the tables are final",
    ],
)
def test_a_step_that_was_seen_survives_and_one_that_was_not_is_never_paid_twice(
    owner: Any,
    name: str,
    at: int,
    before: bool,
    visible: int,
    participants: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = scenario(privacy=GAUSSIAN)
    with monkeypatch.context() as patch, pytest.raises(CutOff):
        cutting(patch, owner, name, at, before)
        deploy(chosen, tmp_path)
    shown = seen(tmp_path)
    assert len(shown) == visible
    summary = deploy(chosen, tmp_path, resume=True)
    assert steps(tmp_path)[:visible] == shown and [row[2] for row in steps(tmp_path)] == participants
    full = simulate(chosen, tmp_path / "simulated").rounds.epsilon.tolist()  # of 1, 2 and 3 participations
    assert summary["epsilon"] == pytest.approx(full[participants.count(3) - 1])
    counts = Run(tmp_path / "run").updates.status.value_counts()
    assert counts["admitted"] == sum(participants) and counts.get("lost", 0) == 9 - sum(participants)


def test_no_pickle_on_the_wire_or_in_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages, client states, a checkpoint, a restart and a report, with every door of pickle locked."""
    chosen = scenario(client={"kind": "scaffold", "lr": 0.1, "steps": 2}, aggregator={"kind": "scaffold"})

    def locked(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("something is pickled")

    for module, names in (
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, locked)
    with monkeypatch.context() as patch, pytest.raises(CutOff):
        cutting(patch, UnderWay, "push", 2, True)
        deploy(chosen, tmp_path)
    assert deploy(chosen, tmp_path, resume=True)["status"] == "finished"
    for path in (tmp_path / "run").iterdir():
        assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")), path.name


def test_a_resumed_deployment_goes_on_and_pays_for_what_was_under_way(tmp_path: Path) -> None:
    chosen = scenario(privacy={**GAUSSIAN, "max_participations": 10})
    grid = virtual_grid(chosen, tmp_path)
    push, sent = grid.push_messages, []

    def broken(messages: Any) -> Any:
        batch = list(messages)
        sent.extend(m for m in batch if m.metadata.message_type == "train")
        if len(sent) > 6:
            raise ConnectionError("the SuperLink is gone")
        return push(batch)

    grid.push_messages = broken  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        deploy(chosen, tmp_path, grid)
    summary = deploy(chosen, tmp_path, virtual_grid(chosen, tmp_path), resume=True)
    assert summary["status"] == "finished" and summary["steps"] == 3
    rows = Run(tmp_path / "run").updates
    # The round under way has nobody left, so it closes with noise alone.
    assert (rows.status == "admitted").sum() == 6 and (rows.status == "lost").sum() == 3
