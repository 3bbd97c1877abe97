"""Replies that hold NaN: they count as taking part, and not as a contribution."""

from __future__ import annotations

from typing import Any

import torch
from schedules import Schedule

from fedopt.aggregators.fedbuff import FedBuff
from fedopt.aggregators.fedfix import FedFix
from fedopt.aggregators.staleness.constant import Constant
from fedopt.devices.compute.ladder import Ladder
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates
from fedopt.sampling.all import All


class OneNan:
    """The third task of client 1 fails."""

    def work(self, cohort: Cohort, engine: Any) -> CohortReply:
        rows = torch.zeros(len(cohort), 1)
        rows[[i for i, pair in enumerate(zip(cohort.clients, cohort.tasks, strict=True)) if pair == (1, 2)]] = torch.nan
        return CohortReply({"update": DenseUpdates(rows)})


def run(method: Any, steps: int = 40, **options: Any) -> Schedule:
    made = Schedule(method, All(), Ladder(slowdown_percent=60), 4, steps, work=OneNan(), **options)
    assert [(row["client_id"], row["weight"]) for row in made.rows if row["status"] == "failed"] == [(1, 0.0)]
    return made


def test_gap_weights_telescope_over_a_failed_reply() -> None:
    """Used weights of a client add up to the step of its last contribution, whatever failed before."""
    made = run(FedFix(server_step_s=0.2, weights="gap"))
    for client in range(4):
        used = [row for row in made.rows if row["client_id"] == client and row["status"] == "admitted"]
        assert sum(row["weight"] for row in used) == used[-1]["step"]


def test_frequency_weights_do_not_count_a_failed_reply() -> None:
    made = run(FedBuff(buffer_size=2, weights="unbiased", staleness=Constant()))
    used = [row for row in made.rows if row["client_id"] == 1 and row["status"] == "admitted"]
    assert [row["weight"] for row in used] == [row["step"] / (k + 1) for k, row in enumerate(used)]


def test_a_failed_reply_uses_up_a_participation() -> None:
    made = run(FedFix(server_step_s=0.2, weights="gap"), steps=100, max_participations=4)
    counts = [sum(r["client_id"] == client and r["status"] == "admitted" for r in made.rows) for client in range(4)]
    assert counts == [4, 3, 4, 4]
