import math

import pytest

from fedopt.aggregators.fedadam import FedAdam
from fedopt.aggregators.fedyogi import FedYogi


def test_first_step_by_hand(drive):
    method = FedYogi(server_lr=0.5, beta1=0.9, beta2=0.99, tau=0.1)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(2.0,)])
    second = 0.01 + 0.01 * 4  # v < u^2, so v grows by (1 - beta2) u^2
    assert state.second_moment.item() == pytest.approx(second)
    assert state.params.item() == pytest.approx(0.5 * 0.2 / (math.sqrt(second) + 0.1))


def test_second_moment_shrinks_when_updates_are_small(drive):
    method = FedYogi(beta2=0.5, tau=1.0)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(0.5,)])
    assert state.second_moment.item() == pytest.approx(1.0 - 0.5 * 0.25)


def test_agrees_with_adam_where_v_equals_the_square(drive):
    ends = []
    for kind in (FedAdam, FedYogi):
        method = kind(tau=1.0)
        ends.append(drive.step(method, method.init(drive.vector(0.0), drive.public), [(1.0,)]))
    assert ends[0].second_moment.item() == pytest.approx(ends[1].second_moment.item())
    assert ends[0].params.item() == pytest.approx(ends[1].params.item())
