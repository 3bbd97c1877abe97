"""Which of a client's earlier tasks its next one goes on from, and that every rejected one is passed over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from schedules import Schedule

from fedopt.aggregators.base import REJECT, Admission
from fedopt.aggregators.fedbuff import FedBuff
from fedopt.devices.compute.half_normal import HalfNormal
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates
from fedopt.sampling.uniform import Uniform
from fedopt.types import Public, ReplyMeta


class Numbered:
    """State: the number of the task that left it behind, from 1."""

    def __init__(self) -> None:
        self.went_on_from: dict[tuple[int, int], int] = {}

    def work(self, cohort: Cohort, engine: Any) -> CohortReply:
        assert cohort.states is not None
        for client, task, before in zip(cohort.clients, cohort.tasks, cohort.states["left"].tolist(), strict=True):
            self.went_on_from[client, task] = int(before[0])
        after = torch.tensor(cohort.tasks)[:, None] + 1.0
        return CohortReply({"update": DenseUpdates(torch.zeros(len(cohort), 1))}, states={"left": after})


class Picky(FedBuff):
    """Rejects every third task of a client, also while an earlier one of it waits in the buffer."""

    def admit(self, state: Any, meta: ReplyMeta, public: Public) -> Admission:
        return REJECT if meta.task % 3 == 2 else 1.0


METHODS = [FedBuff(buffer_size=3, max_staleness=0), FedBuff(buffer_size=3), Picky(buffer_size=5)]


@pytest.mark.parametrize("method", METHODS, ids=["stale", "nothing", "picky"])
def test_a_task_goes_on_from_the_last_reply_that_was_not_rejected(method: FedBuff) -> None:
    work = Numbered()
    run = Schedule(method, Uniform(concurrency=5), HalfNormal(scale=1.0), 6, 60, work=work, states={"left": 1})
    rows = sorted(run.rows, key=lambda row: row["dispatched_s"])
    of = {client: [row["status"] for row in rows if row["client_id"] == client] for client in range(6)}
    assert any("rejected" in statuses for statuses in of.values()) == (method != METHODS[1])
    for (client, task), before in work.went_on_from.items():
        used = [k for k in range(task) if of[client][k] != "rejected"]
        assert before == (used[-1] + 1 if used else 0), (client, task, of[client][: task + 1])
    assert len(work.went_on_from) > 150
