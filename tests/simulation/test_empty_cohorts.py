"""Rounds in which nobody takes part: steps of their own, turns passed over, and waiting, but never for ever."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from schedules import Schedule

from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fedbuff import FedBuff
from fedopt.devices.availability.bernoulli import Bernoulli
from fedopt.devices.compute.constant import Constant
from fedopt.sampling.fixed import Fixed
from fedopt.sampling.poisson import Poisson
from fedopt.sampling.separated import Separated
from fedopt.sampling.uniform import Uniform


class Nobody:
    """Availability that changes every second and never lets anybody in."""

    def bind(self, fleet: Any) -> Any:
        return SimpleNamespace(
            available=lambda clients, seconds: np.zeros(len(clients), dtype=bool),
            next_change=lambda seconds: seconds + 1,
        )


@pytest.mark.parametrize("deadline", [None, 10.0])
@pytest.mark.parametrize("availability", [None, Bernoulli(missing=0.01)])
def test_an_empty_poisson_cohort_is_a_step(deadline: float | None, availability: Bernoulli | None) -> None:
    """Sizes are Binomial(10, 0.1) (with 1 % away, a little fewer), so 0.9^10 = 35 % of the steps are empty."""
    steps, options = 400, {} if availability is None else {"availability": availability}
    run = Schedule(FedAvg(), Poisson(cohort_size=1, deadline_s=deadline), Constant(), 10, steps, **options)
    empty = float(np.mean([row["buffer_size"] == 0 for row in run.steps]))
    coin = 0.1 * (0.99 if availability else 1.0)
    expected = (1 - coin) ** 10
    error = (expected * (1 - expected) / steps) ** 0.5
    assert run.ended.status == "finished" and len(run.steps) == steps
    assert abs(empty - expected) < 4 * error and abs(empty - 2 / 3 * expected) > 4 * error


@pytest.mark.parametrize("sampler", [Poisson(cohort_size=3), Fixed(cohort_size=3), Separated(cohort_size=3)])
def test_waiting_ends_at_the_time_limit(sampler: Any) -> None:
    run = Schedule(FedAvg(), sampler, Constant(), 10, None, availability=Nobody(), seconds=20)
    assert run.ended == ("finished", "the time limit is reached") and not run.steps


def test_a_stream_that_waits_ends_at_the_time_limit() -> None:
    sampler = Uniform(concurrency=3)
    run = Schedule(FedBuff(buffer_size=2), sampler, Constant(), 10, None, availability=Nobody(), seconds=20)
    assert run.ended == ("finished", "the time limit is reached") and not run.steps


def test_poisson_stops_when_no_participation_is_left() -> None:
    run = Schedule(FedAvg(), Poisson(cohort_size=3), Constant(), 10, None, max_participations=2)
    assert run.ended.status == "stopped" and "max_participations = 2" in run.ended.reason
    assert sum(row["status"] == "admitted" for row in run.rows) == 20


@pytest.mark.parametrize(("cohort", "separation", "clients"), [(1, 2, 12), (2, 3, 7), (1, 2, 2), (1, 5, 5)])
@pytest.mark.parametrize("limit", [1, 3])
def test_used_up_turns_are_passed_over_and_rests_are_kept(
    cohort: int, separation: int, clients: int, limit: int
) -> None:
    """Lost replies leave some clients with participations when the others have none: these come again, after a rest."""
    sampler = Separated(cohort_size=cohort, min_separation=separation)
    run = Schedule(FedAvg(), sampler, Constant(), clients, 2_000, max_participations=limit, dropout=0.5)
    assert run.ended.status == "stopped"
    admitted = [row["client_id"] for row in run.rows if row["status"] == "admitted"]
    assert np.bincount(admitted, minlength=clients).tolist() == [limit] * clients
    for client in range(clients):
        starts = sorted(row["version"] for row in run.rows if row["client_id"] == client)
        assert all(later - earlier >= separation for earlier, later in pairwise(starts))
