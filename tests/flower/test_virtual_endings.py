"""A deployment's end is judged and shown like a simulation's, and tells nothing that was withheld."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from virtual_deployment import deploy, scenario, taking

from fedopt.api import Run

TWICE = {
    "unit": "client",
    "trust": "central",
    "relation": "zero_out_one",
    "mechanism": {"kind": "gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0},
    "max_participations": 2,
}
RUN = {"server_steps": 9, "evaluate_every": 5, "evaluate_clients": "none"}


@pytest.mark.parametrize("public_test", [True, False])
def test_an_early_stop_is_evaluated_in_the_last_row_if_it_may_be(tmp_path: Path, public_test: bool) -> None:
    summary = deploy(scenario(privacy=TWICE, run=RUN), tmp_path, None, **{"public-test": public_test})
    rounds = Run(tmp_path / "run").rounds
    assert summary["status"] == "stopped" and summary["steps"] == 2
    assert rounds.metric_value.notna().tolist() == [False, public_test]
    if public_test:
        assert rounds.metric_value.iloc[-1] == summary["final_metric"]
    else:
        assert summary["final_metric"] is None and rounds[["test_loss", "test_accuracy"]].isna().all(axis=None)


@pytest.mark.parametrize("lr", [0.1, 1e38])
def test_a_deployment_without_one_usable_reply_is_no_success(tmp_path: Path, lr: float) -> None:
    client: dict[str, Any] = {"kind": "sgd", "lr": lr, "batch_size": 20, "steps": 4}
    chosen = scenario(client=client, devices=taking(tmp_path, 1.0, 1.0, 1.0), run={**RUN, "server_steps": 2})
    summary = deploy(chosen, tmp_path)
    if lr < 1:
        assert summary["status"] == "finished"
        return
    assert (summary["status"], summary["admitted"]) == ("diverged", 0)
    assert "0 replies were usable: 6 of 6 client tasks gave NaN or infinite values" in summary["reason"]
