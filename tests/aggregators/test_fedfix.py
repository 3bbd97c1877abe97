import math
from fractions import Fraction

import numpy as np
import pytest

from fedopt.aggregators.fedfix import FedFix


def test_ceiling_is_exact_where_doubles_are_not(drive_with):
    """M = 4, F-60, step 1/5: the client with T = 3/5 ends exactly at tick 3; not so in doubles."""
    times = [1 - Fraction(60, 100) * Fraction(i, 3) for i in range(4)]
    drive = drive_with(seconds_per_task=times)
    periods = FedFix(server_step_s=0.2).init(drive.vector(0.0), drive.public).periods
    assert periods == (5, 4, 3, 2)
    assert tuple(math.ceil((1 - 0.6 * i / 3) / 0.2) for i in range(4)) != periods


def test_plan_ticks_exactly_and_restarts_at_the_step(drive_with):
    drive = drive_with(seconds_per_task=[1, 1, 1, 1])
    method = FedFix(server_step_s=0.2)
    exchange = method.plan(method.init(drive.vector(0.0), drive.public), drive.public)
    assert (exchange.close.seconds, exchange.pacing, exchange.restart) == (Fraction(1, 5), "stream", "at_step")


def test_exponential_durations_use_the_expected_ceiling(drive_with):
    means, step = np.array([1.0, 0.5, 0.2]), 0.3
    drive = drive_with(
        num_clients=3,
        seconds_per_task=means,
        expected_ceil=lambda dt: sum(np.exp(-k * float(dt) / means) for k in range(400)),
    )
    method = FedFix(server_step_s=step)
    state = method.init(drive.vector(0.0), drive.public)
    weights = [method.admit(state, drive.meta(i), drive.public) for i in range(3)]
    participation = [0.2592, 0.4512, 0.7769]
    assert weights == pytest.approx([1 / f for f in participation], rel=1e-3)
    simulated = [_participation(mean, step) for mean in means]
    assert simulated == pytest.approx(participation, rel=0.02)


def _participation(mean: float, step: float, cycles: int = 40_000) -> float:
    durations = np.random.default_rng(0).exponential(mean, size=cycles)
    return cycles / np.ceil(durations / step).sum()


def test_random_durations_without_their_law_are_refused(drive_with):
    drive = drive_with(seconds_per_task=[0.5, 0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="use weights: gap"):
        FedFix().init(drive.vector(0.0), drive.public)
    assert FedFix(weights="gap").init(drive.vector(0.0), drive.public).periods == ()


def test_idle_population_is_refused(drive_with):
    drive = drive_with(seconds_per_task=[1] * 4, concurrency=2)
    with pytest.raises(ValueError, match="only 2 of 4 are in flight; use sampling: all"):
        FedFix().init(drive.vector(0.0), drive.public)


def test_empty_tick_is_a_step_that_does_not_move(drive_with):
    drive = drive_with(seconds_per_task=[1] * 4)
    method = FedFix(server_step_s=0.5)
    assert drive.step(method, method.init(drive.vector(3.0), drive.public), []).params.item() == 3


def test_importance_by_examples(drive_with):
    drive = drive_with(seconds_per_task=[Fraction(1, 2), 1, 1, 1], num_examples=np.array([1, 3, 2, 4]))
    method = FedFix(server_step_s=0.5, importance="num_examples")
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(1.0,), (10.0,)])
    assert state.params.item() == pytest.approx((1 * 1 + 2 * 3 * 10) / 10)


@pytest.mark.parametrize(
    "method, largest", [(FedFix(server_step_s=0.5), 4), (FedFix(weights="gap", max_correction=3.0), 3)]
)
def test_private_bound_is_the_largest_weight(drive_with, method, largest):
    drive = drive_with(seconds_per_task=[2, 1, 1, 1], is_private=True)
    state = method.init(drive.vector(0.0), drive.public)
    metas = [drive.meta(0, gap=100)]
    one = drive.admitted(method, state, [(1.0,)], metas, clipped=1.0)
    value, bound = method.reduce(state, one, drive.public)["update"]
    assert bound.l2 == pytest.approx(largest / 4)
    assert value.item() == pytest.approx(bound.l2)


def test_private_gap_weights_need_a_limit(drive_with):
    with pytest.raises(ValueError, match="set max_correction"):
        FedFix(weights="gap").init(drive_with().vector(0.0), drive_with(is_private=True).public)
