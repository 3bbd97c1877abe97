import numpy as np
import pytest
import torch

from fedopt.aggregators.base import REJECT
from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fedbuff import FedBuff
from fedopt.types import Count

CONSTANT = {"kind": "constant"}


def fresh_and_stale(drive):
    return [drive.meta(0), drive.meta(1, staleness=3)]  # s = 1 and 1/2


@pytest.mark.parametrize(
    "normalization, moved", [("mean", (4 + 8 / 2) / 2), ("weighted_sum", 4 + 8 / 2), ("weighted_mean", 8 / 1.5)]
)
def test_normalizations_by_hand(drive, normalization, moved):
    method = FedBuff(buffer_size=2, normalization=normalization)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(4.0,), (8.0,)], fresh_and_stale(drive))
    assert state.params.item() == pytest.approx(moved)


def test_weighted_sum_with_lr_over_k_is_the_mean(drive):
    rows, metas = [(4.0,), (8.0,)], fresh_and_stale(drive)
    ends = []
    for method in (FedBuff(buffer_size=2), FedBuff(buffer_size=2, normalization="weighted_sum", server_lr=0.5)):
        ends.append(drive.step(method, method.init(drive.vector(0.0), drive.public), rows, metas).params.item())
    assert ends[0] == ends[1]


def test_full_fresh_buffer_is_fedavg_bit_for_bit(drive):
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    start, ends = drive.vector(1.0, 2.0, 3.0), []
    for method in (FedAvg(), FedBuff(buffer_size=7)):
        state = method.init(start, drive.public)
        for _ in range(3):
            state = drive.step(method, state, rows)
        ends.append(state.params)
    assert torch.equal(*ends)


def test_sum_over_the_buffer_divides_by_k_whatever_the_weights(drive):
    method = FedBuff(buffer_size=4, staleness=CONSTANT)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(4.0,)])
    assert state.params.item() == 1


def test_example_weights_are_relative_to_the_mean(drive_with):
    drive = drive_with(num_examples=np.array([1, 3, 2, 2]))
    method = FedBuff(buffer_size=2, importance="num_examples")
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(4.0,), (4.0,)])
    assert state.params.item() == pytest.approx((1 * 4 + 3 * 4) / 2 / 2)


def test_momentum_acts_on_the_mean(drive):
    method = FedBuff(buffer_size=1, beta=0.5, server_lr=2.0)
    state = method.init(drive.vector(0.0), drive.public)
    for expected in (2.0, 5.0):
        state = drive.step(method, state, [(1.0,)])
        assert state.params.item() == expected


def test_too_stale_is_rejected(drive):
    method = FedBuff(max_staleness=3)
    state = method.init(drive.vector(0.0), drive.public)
    assert method.admit(state, drive.meta(0, staleness=4), drive.public) == REJECT
    assert method.admit(state, drive.meta(0, staleness=3), drive.public) == 0.5


def test_measured_frequency(drive):
    """Third contribution at step index 8 (the ninth step): f = 3/9, weight 1/f times p."""
    method = FedBuff(weights="unbiased", staleness=CONSTANT)
    meta = drive.meta(0, version=5, staleness=3, contributions=2)
    assert method.admit(method.init(drive.vector(0.0), drive.public), meta, drive.public) == pytest.approx(3.0)


def test_gap_weights_sum_to_the_steps_for_any_schedule(drive):
    method = FedBuff(weights="gap", staleness=CONSTANT)
    steps = sorted(np.random.default_rng(0).choice(100, size=17, replace=False).tolist())
    gaps = np.diff([-1, *steps])
    weights = [method.admit(None, drive.meta(0, gap=int(gap)), drive.public) for gap in gaps]
    assert sum(weights) == steps[-1] + 1


def test_plan(drive):
    method = FedBuff(buffer_size=3, restart="at_step")
    exchange = method.plan(method.init(drive.vector(0.0), drive.public), drive.public)
    assert (exchange.close, exchange.pacing, exchange.restart) == (Count(3), "stream", "at_step")


@pytest.mark.parametrize(
    "method, largest",
    [
        (FedBuff(buffer_size=5), 1 / 5),
        (FedBuff(buffer_size=5, normalization="weighted_sum"), 1.0),
        (FedBuff(buffer_size=5, staleness={"kind": "polynomial", "average_staleness": 1.0}), 2**0.5 / 5),
        (FedBuff(buffer_size=5, weights="gap", max_correction=8.0), 8 / 4),
        (FedBuff(buffer_size=5, importance="num_examples"), 5 / 2 / 5),
    ],
)
def test_private_bound_is_attained_by_one_client(drive_with, method, largest):
    drive = drive_with(is_private=True, num_examples=np.array([5, 1, 1, 1]))
    state = method.init(drive.vector(0.0), drive.public)
    batch = drive.admitted(method, state, [(1.0,)], [drive.meta(0, gap=99)], clipped=1.0)
    value, bound = method.reduce(state, batch, drive.public)["update"]
    assert bound.l2 == pytest.approx(largest)
    assert value.item() == pytest.approx(largest)


@pytest.mark.parametrize(
    "method, message",
    [
        (FedBuff(normalization="weighted_mean"), "divides by what arrived; use mean"),
        (FedBuff(weights="unbiased"), "set max_correction"),
        (FedBuff(weights="unbiased", frequencies=(0.5, 0.5)), "one entry per client \\(4\\), got 2"),
    ],
)
def test_refusals(drive_with, method, message):
    drive = drive_with(is_private=True)
    with pytest.raises(ValueError, match=message):
        method.init(drive.vector(0.0), drive.public)


def test_options_that_exclude_each_other():
    with pytest.raises(ValueError, match="identical only; gap weights are absolute"):
        FedBuff(weights="gap", normalization="weighted_mean")
    with pytest.raises(ValueError, match="frequencies belong to weights: unbiased"):
        FedBuff(frequencies=(1.0,))
