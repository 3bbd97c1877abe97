import math

import pytest
import torch

from fedopt.aggregators.fedadagrad import FedAdagrad
from fedopt.aggregators.fedadam import FedAdam
from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fedyogi import FedYogi


def test_first_step_by_hand(drive):
    method = FedAdam(server_lr=0.5, beta1=0.9, beta2=0.99, tau=0.1)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(2.0,)])
    second = 0.99 * 0.01 + 0.01 * 4
    assert state.first_moment.item() == pytest.approx(0.2)
    assert state.second_moment.item() == pytest.approx(second)
    assert state.params.item() == pytest.approx(0.5 * 0.2 / (math.sqrt(second) + 0.1))


def test_initial_second_moment(drive):
    params = drive.vector(0.0)
    assert FedAdam(tau=0.1).init(params, drive.public).second_moment.item() == pytest.approx(0.01)
    assert FedAdam(tau=0.1, initial_v="zero").init(params, drive.public).second_moment.item() == 0


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
def test_large_tau_is_fedavg(drive, kind):
    tau = 1e8
    method = kind(server_lr=tau, beta1=0.0, initial_v="zero", tau=tau)
    rows, start = [(1.0, -2.0), (3.0, 0.5)], drive.vector(1.0, 1.0)
    adaptive = drive.step(method, method.init(start, drive.public), rows)
    plain = drive.step(FedAvg(), FedAvg().init(start, drive.public), rows)
    assert torch.allclose(adaptive.params, plain.params, atol=1e-6)


def test_scale_of_the_update_hardly_matters(drive):
    method = FedAdam(tau=1e-6)
    start = method.init(drive.vector(0.0), drive.public)
    steps = [drive.step(method, start, [(scale,)]).params.item() for scale in (1.0, 1000.0)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-4)
    plain = [drive.step(FedAvg(), FedAvg().init(drive.vector(0.0), drive.public), [(s,)]) for s in (1.0, 1000.0)]
    assert plain[1].params.item() == 1000 * plain[0].params.item()
