import pytest
import torch

from fedopt.aggregators.fedavg import FedAvg
from fedopt.aggregators.mifa import MIFA


def test_full_participation_is_fedavg(drive):
    rows = [[(1.0,), (2.0,), (-4.0,), (0.5,)], [(3.0,), (0.0,), (1.0,), (1.0,)]]
    ends = []
    for method in (MIFA(), FedAvg()):
        state = method.init(drive.vector(0.0), drive.public)
        for cohort in rows:
            state = drive.step(method, state, cohort)
        ends.append(state.params.item())
    assert ends[0] == pytest.approx(ends[1])


def test_waits_for_everybody_then_remembers_the_absent(drive):
    method = MIFA(server_lr=2.0)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(1.0,), (2.0,), (3.0,)])
    assert state.params.item() == 0
    state = drive.step(method, state, [(6.0,)], [drive.meta(3)])
    assert state.params.item() == 2 * (1 + 2 + 3 + 6) / 4
    before = state.params.item()
    state = drive.step(method, state, [(-2.0,)], [drive.meta(0)])
    assert state.params.item() - before == 2 * (-2 + 2 + 3 + 6) / 4


def test_early_start(drive):
    method = MIFA(start_fraction=0.5)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(1.0,), (3.0,)])
    assert state.params.item() == 2


def test_refused_under_privacy(drive_with):
    with pytest.raises(ValueError, match="MIFA declares no sensitivity bound"):
        MIFA().init(torch.zeros(1), drive_with(is_private=True).public)
