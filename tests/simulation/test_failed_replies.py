"""Replies that hold NaN: they count as taking part, and not as a contribution."""

from __future__ import annotations

from typing import Any

import torch
from schedules import Schedule

from fedopt.aggregators.fedbuff import FedBuff
from fedopt.aggregators.fedfix import FedFix
from fedopt.aggregators.staleness.constant import Constant
from fedopt.devices.compute.constant import Constant as Times
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


class FirstFails:
    """The first task of client 0 fails, with a state; a used one adds one to it."""

    def work(self, cohort: Cohort, engine: Any) -> CohortReply:
        rows = torch.zeros(len(cohort), 1)
        rows[[i for i, pair in enumerate(zip(cohort.clients, cohort.tasks, strict=True)) if pair == (0, 0)]] = torch.nan
        states = None if cohort.states is None else {"count": cohort.states["count"] + 1}
        return CohortReply({"update": DenseUpdates(rows)}, states=states)


def test_where_the_first_of_two_replies_of_a_step_fails_its_steps_stay_owed() -> None:
    """Client 0 fills buffers of three alone: gaps 1, 0, 0, of which the first fails; the next step counts 2."""
    buffered = FedBuff(buffer_size=3, weights="gap", staleness=Constant())
    made = Schedule(buffered, All(), Times(seconds=("1", "100")), 2, 3, work=FirstFails())
    rows = [(row["step"], row["status"], row["weight"]) for row in made.rows]
    assert rows == [
        (1, "failed", 0.0), (1, "admitted", 0.0), (1, "admitted", 0.0),
        (2, "admitted", 2.0), (2, "admitted", 0.0), (2, "admitted", 0.0),
        (3, "admitted", 1.0), (3, "admitted", 0.0), (3, "admitted", 0.0),
    ]  # fmt: skip


def test_the_state_after_a_failed_reply_is_not_kept() -> None:
    made = Schedule(FedFix(), All(), Times(seconds=("1", "1")), 2, 4, work=FirstFails(), states={"count": 1})
    assert [made.simulator.computation.states.get(client)["count"].item() for client in (0, 1)] == [3.0, 4.0]


def test_a_client_whose_reply_failed_restarts_at_the_step_like_the_others() -> None:
    made = run(FedBuff(buffer_size=2, restart="at_step"))
    assert len(made.server.state.in_flight) + len(made.server.state.arrived) == 2  # the last step let two go
    assert {row["client_id"] for row in made.rows if row["step"] > 30} == {0, 1, 2, 3}


def test_a_failed_reply_uses_up_a_participation() -> None:
    made = run(FedFix(server_step_s=0.2, weights="gap"), steps=100, max_participations=4)
    counts = [sum(r["client_id"] == client and r["status"] == "admitted" for r in made.rows) for client in range(4)]
    assert counts == [4, 3, 4, 4]
