"""The clients table and the fairness section say what local metrics are of."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zeroth_order_runs import DIFFERENCES
from zeroth_order_runs import scenario as quadratics

import fedopt
from fedopt.scenario import Run
from fedopt.simulation.session import Session
from scenarios import mapping, small

TEST_SHARE, TRAINING = "on each client's own test share.", "on each client's own training examples, for no client"


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_training_examples_are_no_test_examples(tmp_path: Path, fraction: float) -> None:
    data: dict[str, Any] = {**mapping()["data"], "client_test_fraction": fraction}
    Session(small(data=data), tmp_path / "run", quiet=True).run()
    run, report = fedopt.open_run(tmp_path / "run"), unescape((tmp_path / "run" / "report.html").read_text())
    held = run.clients.num_test_examples
    expected, missing = (TRAINING, TEST_SHARE) if fraction == 0 else (TEST_SHARE, TRAINING)
    assert (held == 0).all() if fraction == 0 else (held > 0).all() and (held < run.clients.num_examples).all()
    assert expected in report and missing not in report
    assert "12 clients were evaluated" in report  # the fairness numbers are of all, either way
    assert run.clients.local_metric.between(0, 1).all()
    if fraction == 0:  # what the caption says: the examples trained on
        scenario = small(data=data)
        loaded = scenario.data.load(scenario.seed)
        mine = loaded.clients.of(0)
        weights = run.parameters()
        logits = torch.from_numpy(loaded.train.inputs[mine]).flatten(1) @ weights["1.weight"].T + weights["1.bias"]
        right = float(np.mean(logits.argmax(1).numpy() == loaded.train.targets[mine]))
        assert run.clients.local_metric.iloc[0] == pytest.approx(right)


def test_black_boxes_are_measured_by_their_own_value(tmp_path: Path) -> None:
    scenario = quadratics(DIFFERENCES, {"kind": "fedavg"}).model_copy(update={"run": Run(server_steps=2)})
    Session(scenario, tmp_path / "run", quiet=True).run()
    assert (fedopt.open_run(tmp_path / "run").clients.num_test_examples == 0).all()
    assert "on each client's own objective." in unescape((tmp_path / "run" / "report.html").read_text())


def test_where_no_time_passes_a_client_has_many_tasks_at_once(tmp_path: Path) -> None:
    """A buffer of ten of one client: ten tasks from one version, all at time 0."""
    alone = small(
        data={"kind": "digits", "clients": 1},
        sampling={"kind": "all"},
        devices={},
        aggregator={"kind": "fedbuff", "buffer_size": 10},
        run={"server_steps": 2},
    )
    Session(alone, tmp_path / "run", quiet=True).run()
    row = fedopt.open_run(tmp_path / "run").clients.iloc[0]
    assert (row.dispatches, row.participations, row.losses) == (20, 20, 0)
