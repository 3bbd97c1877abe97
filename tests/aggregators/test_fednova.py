import numpy as np
import pytest
import torch

from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fednova import FedNova


def momentum_normalizer(steps: int, momentum: float) -> float:
    carried = total = 0.0
    for _ in range(steps):
        carried = momentum * carried + 1
        total += carried
    return total


@pytest.mark.parametrize("steps, momentum, value", [(5, 0.9, 13.1441), (10, 0.5, 18.001953125), (1, 0.7, 1.0)])
def test_normalizer_values_of_the_card(steps, momentum, value):
    closed = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    assert momentum_normalizer(steps, momentum) == pytest.approx(value) == pytest.approx(closed)


def test_equal_work_is_fedavg(drive):
    rows, start = [(1.0, -2.0), (3.0, 0.5), (0.25, 7.0)], drive.vector(1.0, 1.0)
    metas = [drive.meta(i, normalizer=13.1441, local_steps=5) for i in range(3)]
    nova = drive.step(FedNova(), FedNova().init(start, drive.public), rows, metas)
    plain = drive.step(FedAvg(), FedAvg().init(start, drive.public), rows)
    assert torch.allclose(nova.params, plain.params, rtol=1e-12)


@pytest.mark.parametrize("effective, tau", [("normalizer", (1 * 2 + 3 * 10) / 4), ("local_steps", (1 * 1 + 3 * 5) / 4)])
def test_unequal_work_by_hand(drive_with, effective, tau):
    drive = drive_with(num_examples=np.array([1, 3, 1, 1]))
    method = FedNova(weights="num_examples", effective_steps=effective)
    metas = [drive.meta(0, normalizer=2.0, local_steps=1), drive.meta(1, normalizer=10.0, local_steps=5)]
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(4.0,), (5.0,)], metas)
    assert state.params.item() == pytest.approx(tau * (0.25 * 4 / 2 + 0.75 * 5 / 10))


def test_removes_the_bias_of_unequal_work(drive):
    """Two quadratics (x - c)^2/2 with 1 and 10 local steps: the optimum is the plain mean of the centres."""
    rate, centres, steps = 0.01, (0.0, 10.0), (1, 10)
    metas = [drive.meta(i, normalizer=float(s), local_steps=s) for i, s in enumerate(steps)]
    ends = []
    for method in (FedNova(), FedAvg()):
        state = method.init(drive.vector(0.0), drive.public)
        for _ in range(500):
            x = state.params.item()
            rows = [((1 - (1 - rate) ** s) * (c - x),) for c, s in zip(centres, steps, strict=True)]
            state = drive.step(method, state, rows, metas)
        ends.append(state.params.item())
    assert ends[0] == pytest.approx(5.0, abs=0.15)
    assert ends[1] == pytest.approx(10 * 0.0956 / (0.0956 + 0.01), abs=0.1)


def test_privacy_needs_a_public_tau_and_bounds_one_client(drive_with):
    drive = drive_with(is_private=True)
    with pytest.raises(ValueError, match="tau_effective"):
        FedNova().init(drive.vector(0.0), drive.public)
    method = FedNova(tau_effective=6.0)
    state = method.init(drive.vector(0.0), drive.public)
    metas = [drive.meta(0, normalizer=1.0), drive.meta(1, normalizer=8.0)]
    value, bound = method.reduce(state, drive.admitted(method, state, [(1.0,), (1.0,)], metas, 1.0), drive.public)[
        "update"
    ]
    assert value.item() == pytest.approx(6 * (1 + 1 / 8) / 4)
    assert bound.l2 == pytest.approx(6 / 4)


def test_private_examples_are_divided_by_what_is_public(drive_with):
    """tau sum_i n_i update_i / |a_i| over the expected cohort of 2 times the mean n of 2; bounded by the heaviest."""
    drive = drive_with(is_private=True, num_examples=np.array([1, 5, 1, 1]), expected_cohort=2.0)
    method = FedNova(tau_effective=6.0, weights="num_examples")
    batch = drive.admitted(
        method, method.init(drive.vector(0.0), drive.public), [(1.0,), (1.0,)], [drive.meta(0), drive.meta(1)], 1.0
    )
    value, bound = method.reduce(method.init(drive.vector(0.0), drive.public), batch, drive.public)["update"]
    assert value.item() == pytest.approx(6 * (1 + 5) / (2 * 2)) and bound.l2 == pytest.approx(6 * 5 / (2 * 2))


def test_a_normaliser_below_one_is_taken_as_it_is_without_privacy(drive):
    """A strong proximal term: |a| = 0.5 and 2, so tau = 1.25 and the direction is (1 / 0.5 + 3 / 2) / 2."""
    metas = [drive.meta(0, normalizer=0.5), drive.meta(1, normalizer=2.0)]
    state = drive.step(FedNova(), FedNova().init(drive.vector(0.0), drive.public), [(1.0,), (3.0,)], metas)
    assert state.params.item() == pytest.approx(1.25 * (1 / 0.5 + 3 / 2) / 2)


def test_reply_without_steps_counts_for_nothing(drive):
    metas = [drive.meta(0, normalizer=0.0, local_steps=0), drive.meta(1, normalizer=2.0, local_steps=2)]
    state = drive.step(FedNova(), FedNova().init(drive.vector(0.0), drive.public), [(0.0,), (3.0,)], metas)
    assert state.params.item() == pytest.approx(3.0)


def test_server_momentum(drive):
    method = FedNova(beta=0.5)
    state = method.init(drive.vector(0.0), drive.public)
    for expected in (1.0, 2.5):
        state = drive.step(method, state, [(1.0,)])
        assert state.params.item() == pytest.approx(expected)


def test_private_weights_stay_below_their_public_bound(drive_with):
    """A strong proximal term makes |a_i| smaller than 1; unbounded, 1/|a_i| would exceed what the noise is made for."""
    drive = drive_with(is_private=True)
    method = FedNova(tau_effective=1.0)
    state = method.init(drive.vector(0.0), drive.public)
    assert method.admit(state, drive.meta(0, normalizer=0.5), drive.public) == 1.0
    assert method.admit(state, drive.meta(0, normalizer=4.0), drive.public) == 0.25
