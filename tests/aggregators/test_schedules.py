"""Golden case G of the FedFix card: five clients, exact times, a schedule simulator in plain Python."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from fedopt.aggregators.async_fedavg import AsyncFedAvg
from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fedbuff import FedBuff
from fedopt.aggregators.fedfix import FedFix
from fedopt.types import Every

TIMES = [Fraction(5 - i, 5) for i in range(5)]
CENTRES = (0.0, 1.0, 2.0, 3.0, 10.0)
CONSTANT = {"kind": "constant"}


def simulate(drive, method, steps, rate=0.01, times=TIMES, start=0.0):
    """All clients always work and restart at the step; one exact gradient step each. Yields a record per step."""
    state = method.init(drive.vector(start), drive.public)
    count = len(times)
    ready, base, model = list(times), [0] * count, [state.params] * count
    last, contributions = [0] * count, [0] * count
    for n in range(steps):
        close, order = method.plan(state, drive.public).close, sorted(range(count), key=lambda i: (ready[i], i))
        if isinstance(close, Every):
            now = (n + 1) * close.seconds
            members = sorted(i for i in order if ready[i] <= now)
        else:
            members = sorted(order[: getattr(close, "k", count)])
            now = max(ready[i] for i in members)
        metas = [
            drive.meta(i, version=base[i], staleness=n - base[i], gap=n + 1 - last[i], contributions=contributions[i])
            for i in members
        ]
        weights = [method.admit(state, m, drive.public) for m in metas]
        rows = [(rate * (CENTRES[i] - model[i].item()),) for i in members]
        state = drive.step(method, state, rows, metas)
        yield now, members, [base[i] for i in members], weights, state
        for i in members:
            ready[i], base[i], model[i] = now + times[i], n + 1, state.params
            last[i], contributions[i] = n + 1, contributions[i] + 1


@pytest.fixture
def five(drive_with):
    return drive_with(num_clients=5, expected_cohort=5, seconds_per_task=TIMES, concurrency=5)


def frequencies(drive, method, steps):
    records = list(simulate(drive, method, steps))
    return [sum(i in members for _, members, *_ in records) / steps for i in range(5)]


def average(drive, method, steps, rate=0.01):
    """Mean model over the second half, started at the mean of the biased and unbiased optima."""
    values = [record[-1].params.item() for record in simulate(drive, method, steps, rate, start=3.5)]
    return sum(values[steps // 2 :]) / (steps - steps // 2)


def test_fedfix_half_second(five):
    records = list(simulate(five, FedFix(server_step_s=0.5), 4))
    assert [(t, members, bases) for t, members, bases, *_ in records[:2]] == [
        (Fraction(1, 2), [3, 4], [0, 0]),
        (1, [0, 1, 2, 3, 4], [0, 0, 0, 1, 1]),
    ]
    assert records[1][3] == [2, 2, 2, 1, 1]  # d = (0.4, 0.4, 0.4, 0.2, 0.2) times the 5 clients
    assert [sum(weights) / 5 for *_, weights, _ in records] == pytest.approx([0.4, 1.6, 0.4, 1.6])


def test_fedfix_fifth_of_a_second(five):
    method = FedFix(server_step_s=0.2)
    assert method.init(five.vector(0.0), five.public).periods == (5, 4, 3, 2, 1)
    assert frequencies(five, method, 60) == pytest.approx([1 / 5, 1 / 4, 1 / 3, 1 / 2, 1])
    for n, (_, members, bases, *_) in enumerate(simulate(five, method, 60)):
        assert [n - b for b in bases] == [(5, 4, 3, 2, 1)[i] - 1 for i in members]


def test_async_weights_and_first_uploads(five):
    method = AsyncFedAvg(weights="unbiased")
    state = method.init(five.vector(0.0), five.public)
    assert state.upload_rate == pytest.approx(11.41667, abs=1e-5)
    weights = [method.admit(state, five.meta(i), five.public) / 5 for i in range(5)]
    assert weights == pytest.approx([2.28333, 1.82667, 1.37, 0.91333, 0.45667], abs=1e-5)
    first = [(t, m[0], b[0]) for t, m, b, *_ in simulate(five, method, 12)]
    fifths = [(t * 5, i, b) for t, i, b in first]
    assert fifths == [
        (1, 4, 0), (2, 3, 0), (2, 4, 1), (3, 2, 0), (3, 4, 3), (4, 1, 0), (4, 3, 2), (4, 4, 5), (5, 0, 0), (5, 4, 8),
        (6, 2, 4), (6, 3, 7),
    ]  # fmt: skip
    measured = frequencies(five, method, 137 * 5)
    assert [f * d for f, d in zip(measured, weights, strict=True)] == pytest.approx([0.2] * 5, rel=1e-2)


def test_fedbuff_schedule(five):
    method = FedBuff(buffer_size=2, staleness=CONSTANT, restart="at_step")
    fifths = [(t * 5, set(m)) for t, m, *_ in simulate(five, method, 6)]
    assert fifths == [(2, {4, 3}), (3, {2, 4}), (4, {1, 3}), (5, {4, 0}), (6, {2, 3}), (8, {4, 1})]
    assert frequencies(five, method, 56 * 20) == pytest.approx([f / 56 for f in (12, 15, 20, 27, 38)], abs=2e-3)


FREQUENCIES = tuple(f / 56 for f in (12, 15, 20, 27, 38))


@pytest.mark.parametrize(
    "method, optimum",
    [
        (FedAvg(), 3.2),
        (FedFix(server_step_s=0.5), 3.2),
        (FedFix(server_step_s=0.2), 3.2),
        (FedFix(server_step_s=0.3, weights="gap"), 3.2),
        (AsyncFedAvg(weights="unbiased"), 3.2),
        (AsyncFedAvg(weights="gap"), 3.2),
        (AsyncFedAvg(weights="identical"), 5.43796),
        (FedBuff(buffer_size=2, staleness=CONSTANT, weights="unbiased"), 3.2),
        (FedBuff(buffer_size=2, staleness=CONSTANT, weights="unbiased", frequencies=FREQUENCIES), 3.2),
        (FedBuff(buffer_size=2, staleness=CONSTANT, weights="gap"), 3.2),
        (FedBuff(buffer_size=2, staleness=CONSTANT), 4.60714),
    ],
    ids=lambda value: str(value)[:60],
)
def test_optimum_on_quadratics(five, method, optimum):
    """Which loss is minimised: the p-weighted one (3.2), or the one biased towards fast clients."""
    assert average(five, method, 800, 0.02) == pytest.approx(optimum, abs=0.04)


def test_oscillation_of_fedfix_shrinks_with_the_rate(five):
    ends = [average(five, FedFix(server_step_s=0.5), 800, rate) for rate in (0.1, 0.02)]
    assert abs(ends[1] - 3.2) < abs(ends[0] - 3.2) < 0.1


def test_weights_average_to_the_importances(five):
    """sum of d_i over a period of the schedule is p_i times its steps, for every unbiased scheme."""
    for method, steps in [(FedFix(server_step_s=0.5), 60), (FedFix(server_step_s=0.2), 60), (AsyncFedAvg(), 137)]:
        total = [0.0] * 5
        for _, members, _, weights, _ in simulate(five, method, steps):
            for i, w in zip(members, weights, strict=True):
                total[i] += w / 5 / steps
        assert total == pytest.approx([0.2] * 5, rel=0.02), method


def test_long_tick_is_fedavg_bit_for_bit(five):
    ends = []
    for method in (
        FedAvg(),
        FedFix(server_step_s=1.0),
        FedFix(server_step_s=7.5),
        FedFix(server_step_s=2.0, weights="gap"),
    ):
        ends.append([record[-1].params for record in simulate(five, method, 20, times=[Fraction(1)] * 5)])
    for other in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], other, strict=True))


def test_one_client_has_weight_one_everywhere(drive_with):
    drive = drive_with(num_clients=1, expected_cohort=1, seconds_per_task=[Fraction(3, 7)], concurrency=1)
    for method in (FedFix(server_step_s=0.5), AsyncFedAvg(), AsyncFedAvg(weights="identical"), FedBuff(buffer_size=1)):
        state = method.init(drive.vector(0.0), drive.public)
        assert method.admit(state, drive.meta(0), drive.public) == pytest.approx(1.0)
