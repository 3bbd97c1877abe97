"""One run on two processes: the same numbers as on one, the same bits every time, also after a rank died."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from killed_run import start, start_ranks

import fedopt
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates
from fedopt.simulation import distributed
from fedopt.simulation.distributed import ShardedUpdates, ShardedWork, world
from fedopt.types import Message
from fedopt.yaml_writer import to_yaml
from scenarios import BUFFERED, mapping

SCAFFOLD = {
    "client": {"kind": "scaffold", "lr": 0.1, "batch_size": 20, "epochs": 1},
    "aggregator": {"kind": "scaffold"},
}


def run(tmp_path: Path, name: str, ranks: int, changes: dict[str, Any], die_at_step: int | None = None) -> fedopt.Run:
    scenario = tmp_path / "s.yaml"
    scenario.write_text(to_yaml(mapping(**changes)))
    out = tmp_path / name
    processes = start_ranks(scenario, out, ranks, die_at_step) if ranks > 1 else [start(scenario, out)]
    for process in processes:
        process.join(300)
    if die_at_step is None:
        assert [p.exitcode for p in processes] == [0] * ranks
    else:
        assert processes[1].exitcode == 9 and processes[0].exitcode not in (0, None)
    (directory,) = (out / "small").iterdir()  # one run directory: that of rank 0
    return fedopt.open_run(directory)


def flat(found: fedopt.Run) -> torch.Tensor:
    return torch.cat([v.flatten() for v in found.parameters().values()])


@pytest.mark.parametrize("changes", [{}, BUFFERED, pytest.param(SCAFFOLD, marks=pytest.mark.slow)])
def test_two_ranks_give_the_numbers_of_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    one, two = run(tmp_path, "one", 1, changes), run(tmp_path, "two", 2, changes)
    assert (flat(one) - flat(two)).norm() <= 1e-5 * flat(one).norm()
    pd.testing.assert_frame_equal(one.updates, two.updates)
    pd.testing.assert_frame_equal(one.rounds.drop(columns="wall_s"), two.rounds.drop(columns="wall_s"), rtol=1e-3)


def test_a_rank_that_dies_ends_the_run_and_it_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", 2, BUFFERED)
    cut = run(tmp_path, "cut", 2, BUFFERED, die_at_step=5)
    assert cut.summary["status"] == "running"
    resumed = run(tmp_path, "cut", 2, BUFFERED)
    assert resumed.summary["status"] == "finished"
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]
    pd.testing.assert_frame_equal(resumed.updates, whole.updates)


def test_outside_torchrun_there_is_one_rank() -> None:
    assert world() == (0, 1)


def test_a_batch_that_was_never_gathered_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="resume it without torchrun"):
        ShardedUpdates(None, (), 2, 3).of_this_rank()


def test_what_is_reduced_lies_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL reduces nothing that lies on the host; seen on the device without numbers."""
    places = []
    monkeypatch.setattr(distributed, "summed", lambda values: places.append(values.device.type) or values)
    mine = ShardedUpdates(DenseUpdates(torch.zeros(2, 3, device="meta")), (0, 2), 4, 3, "meta")
    nothing = ShardedUpdates(None, (), 4, 3, "meta")
    for batch in (mine, nothing, mine.take([1, 2]), mine.take([1]), mine.scaled(torch.ones(4))):
        batch.weighted_sum(torch.ones(len(batch), dtype=torch.float64))
        batch.norms()
        batch.rows()
    assert places == ["meta"] * 15


class Answering:
    """Client work whose numbers lie where they fall."""

    def work(self, cohort: Cohort, engine: Any) -> CohortReply:
        rows = DenseUpdates(torch.zeros(len(cohort), 3, device="meta"))
        losses = torch.zeros(len(cohort), device="meta")
        return CohortReply({"update": rows}, {"state": losses[:, None]}, {"train_loss": losses}, (1,) * len(cohort))


def test_states_metrics_and_queries_are_reduced_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []

    def summed(values: torch.Tensor) -> torch.Tensor:
        places.append(values.device.type)
        return torch.zeros(values.shape) if values.dim() == 1 and len(places) == 1 else values  # queries are read

    monkeypatch.setattr(distributed, "summed", summed)
    cohort = Cohort((0, 1, 2), (0,) * 3, (Message({}),) * 3, (1,) * 3, 0)
    engine = SimpleNamespace(device=torch.device("meta"))
    ShardedWork(Answering(), 1, 2).work(cohort, engine)  # type: ignore[arg-type]
    assert places == ["meta"] * 3
