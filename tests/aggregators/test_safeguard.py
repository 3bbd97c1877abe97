"""Safeguard hands on, and checks, what the inner method gives as its result."""

import pytest
import torch

from fedopt.aggregators.safeguard import Safeguard
from fedopt.types import Exchange


def checked(drive, method, state, new, old):
    """After a check in which every client found these values."""
    values = torch.tensor([[new, old]] * 2, dtype=torch.float64)
    return drive.step(method, state, [(0.0,)] * 2, values=values)


def candidate(drive, inner, start=2.0):
    method = Safeguard(inner=inner)
    state = method.init(drive.vector(start), drive.public)
    for move in (1.0, 4.0):
        before, state = state, drive.step(method, state, [(move,)] * 2)
        if move == 1.0:
            state = checked(drive, method, state, 0.0, 1.0)
            before = state
    return method, before, state


def test_the_average_of_fedexp_is_the_result_and_is_what_is_checked(drive):
    method, before, state = candidate(drive, {"kind": "fedexp"})
    assert (before.params.item(), method.evaluated(before).item()) == (3.0, 2.5)
    assert (state.params.item(), method.evaluated(state).item()) == (7.0, 5.0)
    parts = method.payload(state, 0, None).parts
    assert (parts["params"].item(), parts["previous"].item()) == (5.0, 2.5)


@pytest.mark.parametrize("new, kept", [(0.5, (7.0, 5.0)), (1.0, (3.0, 2.5)), (2.0, (3.0, 2.5))])
def test_a_rejected_step_of_fedexp_leaves_its_result(drive, new, kept):
    method, _, state = candidate(drive, {"kind": "fedexp"})
    done = checked(drive, method, state, new, 1.0)
    assert (done.params.item(), method.evaluated(done).item()) == kept


def test_a_rejected_step_of_a_plain_method_takes_back_the_model_only(drive):
    method, before, state = candidate(drive, {"kind": "fedavgm", "beta": 0.5})
    done = checked(drive, method, state, 2.0, 1.0)
    assert done.params.item() == before.params.item() == method.evaluated(done).item()
    assert torch.equal(done.inner.momentum, state.inner.momentum) and not torch.equal(
        done.inner.momentum, before.inner.momentum
    )


def test_no_check_is_due_after_a_check(drive):
    method, _, state = candidate(drive, {"kind": "fedavg"})
    released = {"values": drive.vector(0.0, 1.0)}
    step = method.step(state, released, drive.public)
    assert (step.new_version, step.exchange, step.state.before) == (False, None, ())
    assert method.plan(step.state, drive.public) == Exchange()
