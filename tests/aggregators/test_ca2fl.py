import pytest
import torch

from fedopt.aggregators.ca2fl import CA2FL
from fedopt.aggregators.fedbuff import FedBuff


def start(drive, method):
    return method.init(drive.vector(0.0), drive.public)


def test_first_buffer_is_fedbuff(drive):
    rows, method = [(1.0,), (5.0,)], CA2FL(buffer_size=2)
    plain = FedBuff(buffer_size=2)
    ends = [drive.step(m, start(drive, m), rows).params for m in (method, plain)]
    assert torch.equal(*ends)


def test_second_buffer_by_hand(drive):
    method = CA2FL(buffer_size=2, server_lr=0.5)
    state = drive.step(method, start(drive, method), [(1.0,), (5.0,)])  # h = (1, 5, 0, 0), mean 1.5
    assert (state.params.item(), state.cached_mean.item()) == (1.5, 1.5)
    state = drive.step(method, state, [(3.0,), (8.0,)], [drive.meta(1), drive.meta(2)])
    # A = (3 - 5) + (8 - 0) = 6, v = 1.5 + 6/2
    assert state.params.item() == 1.5 + 0.5 * 4.5
    assert state.cached_mean.item() == (1 + 3 + 8) / 4


def test_everybody_once_moves_by_the_mean_whatever_the_cache(drive):
    method = CA2FL(buffer_size=4)
    state = drive.step(method, start(drive, method), [(7.0,), (-3.0,), (11.0,), (0.5,)])
    moved = drive.step(method, state, [(1.0,), (2.0,), (3.0,), (6.0,)])
    assert moved.params.item() - state.params.item() == pytest.approx(3.0)


def test_unchanged_updates_move_by_the_cached_mean(drive):
    method = CA2FL(buffer_size=4)
    rows = [(7.0,), (-3.0,), (11.0,), (0.5,)]
    state = drive.step(method, start(drive, method), rows)
    half = CA2FL(buffer_size=2)
    moved = drive.step(half, state, rows[:2])
    assert moved.params.item() - state.params.item() == pytest.approx(state.cached_mean.item())


def test_second_upload_of_a_client_calibrates_against_its_first(drive):
    method = CA2FL(buffer_size=2)
    metas = [drive.meta(0), drive.meta(0, dispatch_id=9)]
    state = drive.step(method, start(drive, method), [(1.0,), (4.0,)], metas)
    assert state.params.item() == (1 + (4 - 1)) / 2
    assert state.cache[0].item() == 4 and state.cached_mean.item() == 1


def test_cached_mean_follows_the_cache(drive):
    method, state = CA2FL(buffer_size=3), None
    state = start(drive, method)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        clients = torch.randint(4, (3,), generator=generator).tolist()
        rows = torch.randn(3, 1, generator=generator, dtype=torch.float64).tolist()
        state = drive.step(method, state, rows, [drive.meta(c) for c in sorted(clients)])
    assert state.cached_mean.item() == pytest.approx(sum(row.item() for row in state.cache.values()) / 4)


def test_calibration_is_unbiased_for_uniform_buffers(drive):
    """Stationary updates: the mean step over all buffers is the mean update of the population; FedBuff's is too."""
    updates, method = (4.0, -2.0, 1.0, 9.0), CA2FL(buffer_size=2)
    state = start(drive, method)._replace(
        cache={i: drive.vector(c) for i, c in enumerate((1.0, 1.0, -7.0, 0.0))}, cached_mean=drive.vector(-5 / 4)
    )
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    moves = [
        drive.step(method, state, [(updates[i],), (updates[j],)], [drive.meta(i), drive.meta(j)]).params.item()
        for i, j in pairs
    ]
    assert sum(moves) / len(moves) == pytest.approx(sum(updates) / 4)


def test_refused_under_privacy(drive_with):
    with pytest.raises(ValueError, match="CA2FL declares no sensitivity bound"):
        CA2FL().init(torch.zeros(1), drive_with(is_private=True).public)
