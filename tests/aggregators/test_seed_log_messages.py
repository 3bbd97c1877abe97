"""What messages of the scalar methods are counted as, and what they announce."""

import pytest
import torch

from fedopt.aggregators.feedsign import FeedSign
from fedopt.aggregators.one_byte import OneByte
from fedopt.types import Public

PUBLIC = Public(num_clients=4, expected_cohort=4)
OWN = 8 + 64  # bits of a record of one scalar that names its worker and task


@pytest.mark.parametrize("last_version, others", [(0, 4), (1, 3), (2, 1)])
def test_nobody_is_sent_its_own_bytes_however_many_of_its_tasks_were_applied(last_version, others):
    """Client 7 is started again before its first reply is applied: two of them may lie after its last message."""
    method = OneByte(count=1, buffer_size=2, join="log")
    state = method.start(torch.zeros(1000), 0)
    for sent in ({7: OWN, 1: OWN}, {1: OWN, 2: OWN}, {7: OWN, 2: OWN}):
        state = method.advance(state, [], 2 * OWN, sent)
    assert method.payload(state, 7, last_version).num_bytes == others * OWN // 8
    assert method.payload(state, 3, last_version).num_bytes == 2 * (3 - last_version) * OWN // 8


def test_who_holds_the_model_is_not_sent_its_weights_again():
    method = OneByte(count=1, buffer_size=2, join="weights")
    state = method.advance(method.start(torch.zeros(1000), 0), [], 2 * OWN, {1: OWN, 2: OWN})
    assert [method.payload(state, 7, last).num_bytes for last in (None, 0, 1)] == [4000, 4000, 0]


@pytest.mark.parametrize("kind, length", [("sphere", 1.0), ("coordinate", 1.0), ("rademacher", 10.0)])
def test_a_step_of_feedsign_is_as_long_as_announced(kind, length):
    method = FeedSign(directions=kind, step_size=0.5)
    state = method.init(torch.zeros(100), PUBLIC)
    announced = method.payload(state, 0, None).config["step_size"]
    moved = method.step(state, {"scalars": torch.ones(1)}, PUBLIC).state.params
    assert announced == 0.5
    assert float(moved.norm()) == pytest.approx(0.5 * length, rel=1e-6)
