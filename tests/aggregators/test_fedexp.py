import numpy as np
import pytest
import torch

from fedopt.aggregators.fedexp import FedExP


def moved(drive, method, rows):
    return drive.step(method, method.init(torch.zeros(len(rows[0]), dtype=torch.float64), drive.public), rows).params


def test_identical_updates_are_not_extrapolated(drive):
    assert torch.equal(moved(drive, FedExP(epsilon=0.0), [(1.0, 2.0)] * 3), drive.vector(1.0, 2.0))
    assert torch.equal(moved(drive, FedExP(epsilon=0.0), [(1.0, 2.0)]), drive.vector(1.0, 2.0))


@pytest.mark.parametrize("count", [2, 3, 6])
def test_orthogonal_updates_give_half_their_number(drive, count):
    rows = (3 * torch.eye(count, dtype=torch.float64)).tolist()
    assert torch.allclose(
        moved(drive, FedExP(epsilon=0.0), rows), torch.full((count,), max(1, count / 2) * 3 / count).double()
    )


def test_rate_ignores_a_common_scale_without_epsilon_and_not_with_it(drive):
    rows = [(5.0, 0.0, 0.0), (0.0, 5.0, 0.0), (0.0, 0.0, 5.0)]
    small = [tuple(v / 1000 for v in row) for row in rows]
    assert torch.allclose(moved(drive, FedExP(epsilon=0.0), rows), 1000 * moved(drive, FedExP(epsilon=0.0), small))
    # with epsilon the rate of tiny updates falls to 1
    assert torch.allclose(moved(drive, FedExP(epsilon=1.0), small), drive.vector(*[5e-3 / 3] * 3))


def test_rate_by_hand_with_weights_and_epsilon(drive_with):
    """p = (1/4, 3/4): u = (0, 3), |u|^2 = 9, and the mean of |update|^2 is 144 / 4 + 32 * 3/4 = 60."""
    drive, rows = drive_with(num_examples=np.array([1, 3, 1, 1])), [(12.0, 0.0), (-4.0, 4.0)]
    method = FedExP(weights="num_examples", epsilon=0.5)
    assert torch.allclose(moved(drive, method, rows), drive.vector(0.0, 3 * 60 / (2 * 9.5)))


def test_epsilon_decays_and_the_average_of_two_iterates_is_evaluated(drive):
    method = FedExP(epsilon=1.0, epsilon_decay=0.5)
    state = method.init(drive.vector(2.0), drive.public)
    assert method.evaluated(state).item() == 2
    state = drive.step(method, state, [(1.0,)])
    assert (state.params.item(), method.evaluated(state).item(), state.epsilon) == (3.0, 2.5, 0.5)
    assert drive.step(method, state, [(1.0,)]).epsilon == 0.25


def test_nothing_arrives(drive):
    assert moved(drive, FedExP(epsilon=0.0), [(0.0,)]).item() == 0
    state = FedExP(epsilon=0.0).init(drive.vector(1.0), drive.public)
    assert drive.step(FedExP(epsilon=0.0), state, []).params.item() == 1


def test_refused_under_privacy(drive_with):
    with pytest.raises(ValueError, match=r"FedExP declares no sensitivity bound .*norms of raw updates"):
        FedExP().init(torch.zeros(1), drive_with(is_private=True).public)
