import pytest
import torch

from fedopt.aggregators.base import REJECT
from fedopt.aggregators.fedasync import FedAsync
from fedopt.aggregators.fedbuff import FedBuff

CONSTANT = {"kind": "constant"}


def advance(drive, method, state, updates):
    for update in updates:
        state = drive.step(method, state, [update], [drive.meta(0, version=state.version)])
    return state


def test_mixing_is_the_papers_formula(drive):
    """(1 - rate) x + rate (received + update), for a reply two versions old."""
    method = FedAsync(alpha=0.6)
    state = method.init(drive.vector(1.0, -2.0), drive.public)
    received = state.params
    state = advance(drive, method, state, [(3.0, 1.0), (0.5, 0.25)])
    update = drive.vector(2.0, 5.0)
    mixed = drive.step(method, state, [update.tolist()], [drive.meta(1, version=0, staleness=2)])
    rate = 0.6 * 3**-0.5
    assert torch.allclose(mixed.params, (1 - rate) * state.params + rate * (received + update), rtol=1e-14)


def test_alpha_one_with_one_worker_is_sequential_training(drive):
    method = FedAsync(alpha=1.0, staleness=CONSTANT)
    state = advance(drive, method, method.init(drive.vector(1.0), drive.public), [(2.0,), (-0.5,)])
    assert state.params.item() == 2.5


def test_without_staleness_it_is_fedbuff_of_one(drive):
    updates, ends = [(1.0,), (3.0,), (-2.0,)], []
    for relative in ("current", "received"):
        method = FedAsync(alpha=0.7, relative_to=relative)
        ends.append(advance(drive, method, method.init(drive.vector(0.0), drive.public), updates).params)
    buffered = FedBuff(buffer_size=1, server_lr=0.7)
    state = buffered.init(drive.vector(0.0), drive.public)
    for update in updates:
        state = drive.step(buffered, state, [update])
    assert torch.allclose(ends[0], state.params, rtol=1e-14)
    assert torch.allclose(ends[1], state.params, rtol=1e-14)


def test_fixed_client_model_is_reached_geometrically(drive):
    method = FedAsync(alpha=0.25, staleness=CONSTANT)
    state = method.init(drive.vector(8.0), drive.public)
    for n in range(4):  # every client sends the model 0, started from version 0 (params 8)
        state = drive.step(method, state, [(-8.0,)], [drive.meta(0, version=0, staleness=n)])
        assert state.params.item() == pytest.approx(8 * 0.75 ** (n + 1))


def test_keeps_only_versions_in_use(drive):
    method = FedAsync()
    state = advance(drive, method, method.init(drive.vector(0.0), drive.public), [(1.0,)] * 5)
    assert sorted(state.versions) == [0, 1, 2, 3, 4, 5]
    kept = method.forget(state, {2, 4})
    assert sorted(kept.versions) == [2, 4, 5]
    assert sorted(state.versions) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"version 3 was forgotten"):
        drive.step(method, kept, [(1.0,)], [drive.meta(0, version=3, staleness=2)])


def test_staleness_limit_rejects_and_bounds_memory(drive):
    method = FedAsync(max_staleness=2)
    state = advance(drive, method, method.init(drive.vector(0.0), drive.public), [(1.0,)] * 5)
    assert sorted(state.versions) == [3, 4, 5]
    assert method.admit(state, drive.meta(0, staleness=3), drive.public) == REJECT
    assert method.admit(state, drive.meta(0, staleness=2), drive.public) == pytest.approx(0.6 * 3**-0.5)


def test_private_bound_is_the_largest_rate(drive_with):
    drive = drive_with(is_private=True)
    method = FedAsync(alpha=0.6)
    state = method.init(drive.vector(0.0), drive.public)
    value, bound = method.reduce(state, drive.admitted(method, state, [(1.0,)], clipped=1.0), drive.public)["update"]
    assert bound.l2 == pytest.approx(0.6) == pytest.approx(value.item())


def test_rates_above_one_are_refused():
    with pytest.raises(ValueError, match=r"must be <= 1, got 1.2"):
        FedAsync(alpha=0.6, staleness={"kind": "polynomial", "exponent": 1.0, "average_staleness": 1.0})
