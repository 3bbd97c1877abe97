import math

import pytest
import torch

from fedopt.aggregators.fadas import FADAS
from fedopt.aggregators.fedbuff import FedBuff


def test_two_steps_by_hand(drive):
    method = FADAS(buffer_size=1, server_lr=0.5, beta1=0.5, beta2=0.5, epsilon=0.1, staleness_limit=None)
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(4.0,)])
    assert (state.first_moment.item(), state.second_moment.item()) == (2, 8)
    assert state.params.item() == pytest.approx(0.5 * 2 / (math.sqrt(8) + 0.1))
    after = drive.step(method, state, [(0.0,)])
    assert (after.second_moment.item(), after.largest_moment.item()) == (4, 8)
    assert (after.params - state.params).item() == pytest.approx(0.5 * 1 / (math.sqrt(8) + 0.1))


@pytest.mark.parametrize("staleness, rate", [(0, 0.5), (3, 0.5), (4, 0.25), (40, 0.025)])
def test_delay_adaptive_rate(drive, staleness, rate):
    method = FADAS(buffer_size=2, server_lr=0.5, beta1=0.0, beta2=0.0, epsilon=1e-12, staleness_limit=3)
    metas = [drive.meta(0, staleness=staleness), drive.meta(1)]
    state = drive.step(method, method.init(drive.vector(0.0), drive.public), [(2.0,), (2.0,)], metas)
    assert state.params.item() == pytest.approx(rate)


def test_large_epsilon_is_fedbuff(drive):
    big, rows = 1e9, [(1.0, -2.0), (3.0, 4.0)]
    method = FADAS(buffer_size=2, server_lr=big, beta1=0.0, beta2=0.0, epsilon=big, staleness_limit=None)
    plain = FedBuff(buffer_size=2)
    ends = [drive.step(m, m.init(drive.vector(0.0, 0.0), drive.public), rows).params for m in (method, plain)]
    assert torch.allclose(*ends, atol=1e-6)


def test_under_privacy_only_without_the_adaptive_rate(drive_with):
    drive = drive_with(is_private=True)
    with pytest.raises(ValueError, match="set staleness_limit: null"):
        FADAS().init(drive.vector(0.0), drive.public)
    method = FADAS(staleness_limit=None)
    state = method.init(drive.vector(0.0), drive.public)
    reduced = method.reduce(state, drive.admitted(method, state, [(1.0,)], clipped=1.0), drive.public)
    assert set(reduced) == {"update"} and reduced["update"][1].l2 == pytest.approx(1 / 5)
