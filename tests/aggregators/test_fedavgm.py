import torch

from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.fedavgm import FedAvgM


def test_two_steps_by_hand(drive):
    method = FedAvgM(beta=0.5, server_lr=2.0)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(1.0,), (3.0,)])
    assert (state.params.item(), state.momentum.item()) == (4, 2)
    state = drive.step(method, state, [(1.0,)])
    assert (state.params.item(), state.momentum.item()) == (8, 2)


def test_beta_zero_is_fedavg_bit_for_bit(drive):
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    end = []
    for method in (FedAvg(), FedAvgM(beta=0.0)):
        state = method.init(drive.vector(1.0, 2.0, 3.0), drive.public)
        for _ in range(3):
            state = drive.step(method, state, rows)
        end.append(state.params)
    assert torch.equal(*end)
