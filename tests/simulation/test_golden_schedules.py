"""Golden case G of the FedFix card (five clients, F-80) and the staleness identities, through server and clock."""

from __future__ import annotations

from fractions import Fraction as F

import pytest
from schedules import Schedule

from fedopt.aggregators.async_fedavg import AsyncFedAvg
from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fedbuff import FedBuff
from fedopt.aggregators.fedfix import FedFix
from fedopt.aggregators.staleness.constant import Constant
from fedopt.devices.availability.bernoulli import Bernoulli
from fedopt.devices.compute.half_normal import HalfNormal
from fedopt.devices.compute.ladder import Ladder
from fedopt.sampling.all import All
from fedopt.sampling.uniform import Uniform

F80 = Ladder(slowdown_percent=80)


def test_asynchronous_uploads_of_case_g() -> None:
    run = Schedule(AsyncFedAvg(dispatch="per_upload"), All(), F80, clients=5, steps=12)
    expected = [
        (F(1, 5), 4, 0), (F(2, 5), 3, 0), (F(2, 5), 4, 1), (F(3, 5), 2, 0), (F(3, 5), 4, 3), (F(4, 5), 1, 0),
        (F(4, 5), 3, 2), (F(4, 5), 4, 5), (F(1), 0, 0), (F(1), 4, 8), (F(6, 5), 2, 4), (F(6, 5), 3, 7),
    ]  # fmt: skip
    assert run.uploads() == expected


def test_asynchronous_frequencies_and_mean_staleness_of_case_g() -> None:
    run = Schedule(AsyncFedAvg(dispatch="per_upload"), All(), F80, clients=5, steps=137 * 8)
    late = [r for r in run.rows if r["step"] > 137]
    counts = [sum(r["client_id"] == i for r in late) / len(late) for i in range(5)]
    assert counts == pytest.approx([0.0876, 0.1095, 0.1460, 0.2190, 0.4380], abs=2e-3)
    assert sum(r["staleness"] for r in late) / len(late) == pytest.approx(4.0, abs=0.02)


def test_fedfix_half_second_of_case_g() -> None:
    run = Schedule(FedFix(server_step_s=0.5), All(), F80, clients=5, steps=4)
    everyone = {0, 1, 2, 3, 4}
    assert run.step_members() == [(F(1, 2), {3, 4}), (F(1), everyone), (F(3, 2), {3, 4}), (F(2), everyone)]
    second = {r["client_id"]: r["version"] for r in run.rows if r["step"] == 2}
    assert second == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1}
    weights = {r["client_id"]: r["weight"] for r in run.rows if r["step"] == 2}
    assert weights == {0: 2.0, 1: 2.0, 2: 2.0, 3: 1.0, 4: 1.0}  # N_i; divided by the five clients in reduce


def test_fedfix_fifth_of_a_second_of_case_g() -> None:
    run = Schedule(FedFix(server_step_s=0.2), All(), F80, clients=5, steps=60)
    for client, cycles in enumerate((5, 4, 3, 2, 1)):
        mine = [r for r in run.rows if r["client_id"] == client]
        assert len(mine) == 60 // cycles
        assert {r["staleness"] for r in mine} == {cycles - 1}
        assert {r["weight"] for r in mine} == {float(cycles)}


def test_fedfix_ceilings_are_exact_where_doubles_are_not() -> None:
    run = Schedule(FedFix(server_step_s=0.2), All(), Ladder(slowdown_percent=40), clients=4, steps=60)
    fastest = [r for r in run.rows if r["client_id"] == 3]  # T = 0.6 is exactly three ticks of 0.2
    assert len(fastest) == 20 and {r["weight"] for r in fastest} == {3.0}


def test_fedbuff_steps_of_case_g() -> None:
    run = Schedule(FedBuff(buffer_size=2, restart="at_step"), All(), F80, clients=5, steps=6)
    expected = [
        (F(2, 5), {4, 3}), (F(3, 5), {2, 4}), (F(4, 5), {1, 3}), (F(1), {4, 0}), (F(6, 5), {2, 3}), (F(8, 5), {4, 1})
    ]  # fmt: skip
    assert run.step_members() == expected


def test_fedbuff_frequencies_of_case_g() -> None:
    run = Schedule(FedBuff(buffer_size=2, restart="at_step"), All(), F80, clients=5, steps=56 * 6)
    late = [r for r in run.rows if r["step"] > 56]
    counts = [sum(r["client_id"] == i for r in late) / (56 * 5) * 56 for i in range(5)]
    assert counts == pytest.approx([12, 15, 20, 27, 38], abs=0.5)


@pytest.mark.parametrize(("concurrency", "k"), [(10, 1), (10, 5), (10, 10), (100, 10)])
def test_mean_staleness_is_concurrency_less_one_over_k(concurrency: int, k: int) -> None:
    run = Schedule(
        FedBuff(buffer_size=k), Uniform(concurrency=concurrency), HalfNormal(scale=1.0), clients=400, steps=3000 // k
    )
    warm = [r["staleness"] for r in run.rows if r["status"] == "admitted" and r["step"] > 600 // k]
    assert sum(warm) / len(warm) == pytest.approx((concurrency - 1) / k, rel=0.05)


def test_fedbuff_with_k_equal_to_the_concurrency_and_equal_durations_is_synchronous() -> None:
    buffered = Schedule(FedBuff(buffer_size=5), All(), Ladder(slowdown_percent=0), clients=5, steps=6)
    synchronous = Schedule(FedAvg(), All(), Ladder(slowdown_percent=0), clients=5, steps=6)
    assert buffered.uploads() == synchronous.uploads()
    assert {r["staleness"] for r in buffered.rows} == {0}


def test_fedfix_with_a_long_tick_is_fedavg_with_that_round_length() -> None:
    fixed = Schedule(FedFix(server_step_s=1.0), All(), F80, clients=5, steps=6)
    synchronous = Schedule(FedAvg(), All(), F80, clients=5, steps=6)
    assert fixed.step_members() == synchronous.step_members()
    assert {r["weight"] for r in fixed.rows} == {1.0}


def test_losses_do_not_stop_a_stream() -> None:
    run = Schedule(
        FedBuff(buffer_size=4), Uniform(concurrency=8), HalfNormal(scale=1.0), clients=30, steps=50, dropout=0.3
    )
    lost = sum(r["status"] == "lost" for r in run.rows)
    admitted = sum(r["status"] == "admitted" for r in run.rows)
    assert admitted == 200 and run.ended.status == "finished"
    assert lost / (lost + admitted) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 280) ** 0.5)
    assert sum(s["lost"] for s in run.steps) <= lost


def test_participation_limit_is_enforced_and_ends_the_run() -> None:
    run = Schedule(
        FedBuff(buffer_size=4), Uniform(concurrency=4), HalfNormal(scale=1.0), 10, steps=1000, max_participations=3
    )
    counts = [sum(r["client_id"] == i and r["status"] == "admitted" for r in run.rows) for i in range(10)]
    assert max(counts) <= 3
    assert run.ended.status == "stopped" and "max_participations = 3" in run.ended.reason


def test_the_same_seed_gives_the_same_delays_under_another_aggregator() -> None:
    first = Schedule(FedBuff(buffer_size=2), All(), HalfNormal(scale=1.0), clients=5, steps=30)
    second = Schedule(AsyncFedAvg(), All(), HalfNormal(scale=1.0), clients=5, steps=60)

    def durations(run: Schedule) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for r in sorted(run.rows, key=lambda r: r["dispatched_s"]):
            found.setdefault(r["client_id"], []).append(r["arrived_s"] - r["dispatched_s"])
        return found

    one, other = durations(first), durations(second)
    for client in range(5):
        shared = min(len(one[client]), len(other[client]))
        assert shared >= 8 and one[client][:shared] == pytest.approx(other[client][:shared], abs=1e-9)


def weight_per_step(run: Schedule, steps: int) -> list[float]:
    """Cumulative weight of every client over the steps; 1 is unbiased."""
    return [sum(r["weight"] for r in run.rows if r["client_id"] == i) / steps for i in range(5)]


def test_gap_weights_count_a_client_once_per_step_however_often_it_comes() -> None:
    """Restarting at once, the fastest client comes up to three times in a buffer of five."""
    steps = 400
    run = Schedule(FedBuff(buffer_size=5, weights="gap", staleness=Constant()), All(), F80, clients=5, steps=steps)
    comes = [sum(r["client_id"] == 4 and r["step"] == s for r in run.rows) for s in range(1, steps + 1)]
    assert max(comes) >= 2
    assert weight_per_step(run, steps) == pytest.approx([1.0] * 5, abs=0.02)


def test_fedfix_starts_nobody_twice_within_a_tick() -> None:
    """Clients come and go; one whose reply waits for the tick must not fill somebody else's empty place."""
    steps = 300
    fix = FedFix(server_step_s=1.0, weights="gap")
    run = Schedule(fix, All(), F80, clients=5, steps=steps, availability=Bernoulli(missing=0.5))
    for row in run.steps:
        members = [r["client_id"] for r in run.rows if r["status"] == "admitted" and r["step"] == row["step"]]
        assert len(members) == len(set(members))
    assert weight_per_step(run, steps) == pytest.approx([1.0] * 5, abs=0.03)
