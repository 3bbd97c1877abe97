import math

import pytest

from fedopt.aggregators.fedadagrad import FedAdagrad


def test_two_steps_by_hand(drive):
    tau, method = 0.1, FedAdagrad(server_lr=0.5, tau=0.1)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(2.0,)])
    first = 0.5 * 2 / (math.sqrt(tau**2 + 4) + tau)
    assert state.params.item() == pytest.approx(first)
    state = drive.step(method, state, [(-1.0,)])
    assert state.second_moment.item() == pytest.approx(tau**2 + 5)
    assert state.params.item() == pytest.approx(first - 0.5 / (math.sqrt(tau**2 + 5) + tau))
