import numpy as np
import pytest
import torch

from fedopt.aggregators.fedavg import FedAvg

EXAMPLES = np.array([1, 3, 4, 8])


def test_weighted_by_examples_by_hand(drive_with):
    drive = drive_with(num_examples=EXAMPLES)
    method = FedAvg(weights="num_examples")
    state = drive.step(method, method.init(drive.vector(1.0), drive.public), [(4.0,), (8.0,)])
    assert state.params.item() == 1 + (1 * 4 + 3 * 8) / 4


def test_no_survivors_leave_the_model(drive):
    method = FedAvg()
    state = drive.step(method, method.init(drive.vector(2.0), drive.public), [])
    assert state.params.item() == 2


@pytest.mark.parametrize("weights, largest", [("uniform", 1.0), ("num_examples", 8 / 4)])
def test_private_bound_covers_the_heaviest_client(drive_with, weights, largest):
    """Replacing one client's clipped update by zero moves the value by at most the bound, and the bound is attained."""
    drive = drive_with(num_examples=EXAMPLES, is_private=True)
    method = FedAvg(weights=weights)
    state = method.init(drive.vector(0.0), drive.public)
    with_client = method.reduce(state, drive.admitted(method, state, [(1.0,)] * 4, clipped=1.0), drive.public)
    without = method.reduce(state, drive.admitted(method, state, [(1.0,)] * 3 + [(0.0,)], clipped=1.0), drive.public)
    value, bound = with_client["update"]
    assert bound.l2 == pytest.approx(largest / 4)
    assert torch.allclose(value - without["update"][0], drive.vector(bound.l2))


def test_num_examples_must_be_public(drive):
    with pytest.raises(ValueError, match=r"data.public"):
        FedAvg(weights="num_examples").admit(None, drive.meta(), drive.public)
