"""Steps of the scalar methods by hand: whose directions, with which weight, divided by what."""

from __future__ import annotations

import pytest
import torch

from fedopt.aggregators.base import REJECT
from fedopt.aggregators.decomfl import DeComFL
from fedopt.aggregators.one_byte import OneByte
from fedopt.types import Public
from fedopt.zeroth_order.directions import Directions
from fedopt.zeroth_order.spsa import direction_key

D = 6
POLYNOMIAL = {"kind": "polynomial", "exponent": 0.5}


def along(scalars: list[float], seed: int, *ids: int) -> torch.Tensor:
    """Sum of scalars times the directions of a stream ``[d]``."""
    rows = Directions("rademacher", D, direction_key(seed, *ids)).matrix(len(scalars), dtype=torch.float64)
    return torch.tensor(scalars, dtype=torch.float64) @ rows


def started(method, drive, version: int):
    """A state at the origin that has made some versions already."""
    state = method.init(drive.vector(*[0.0] * D), drive.public)
    for _ in range(version):
        state = method.advance(state, [], 0, {})
    return state


@pytest.mark.parametrize("buffer_size, divisor", [(2, 2.0), (4, 4.0), (None, 1.5)])
def test_stale_scalars_move_along_the_directions_of_their_version_and_count_less(drive, buffer_size, divisor):
    """Staleness 3 weighs 1/2; a buffer divides by its size, a round by the weights it has."""
    method = DeComFL(buffer_size=buffer_size, step_size=0.3, perturbations=2, staleness=POLYNOMIAL)
    state, metas = started(method, drive, 3), [drive.meta(0, version=3), drive.meta(1, version=0, staleness=3)]
    scalars = torch.tensor([[1.0, 2.0], [4.0, -8.0]])
    moved = drive.step(method, state, [(0.0,)] * 2, metas, scalars=scalars)
    seed = drive.public.seed
    wanted = -0.3 / 2 / divisor * (along([1.0, 2.0], seed, 3) + 0.5 * along([4.0, -8.0], seed, 0))
    torch.testing.assert_close(moved.params, wanted, rtol=1e-6, atol=1e-7)
    assert [(r.step, r.key) for r in moved.records] == [(3, direction_key(seed, v)) for v in (0, 3)]


@pytest.mark.parametrize("normaliser, divisor", [("mean", 6.0), ("root", 6.0**0.5)])
def test_bytes_are_applied_by_worker_and_task_with_the_weight_of_their_staleness(drive, normaliser, divisor):
    method = OneByte(count=2, step_size=0.3, buffer_size=3, staleness=POLYNOMIAL, normaliser=normaliser)
    arrived = [(2, 5, 0), (0, 7, 3), (2, 4, 0)]  # worker, task, staleness
    metas = [drive.meta(w, task=t, staleness=s, local_steps=2) for w, t, s in arrived]
    scalars = torch.tensor([[1.0, 2.0], [4.0, -8.0], [-1.0, 0.5]])
    moved = drive.step(method, started(method, drive, 3), [(0.0,)] * 3, metas, scalars=scalars)
    seed = drive.public.seed
    each = [
        along(row, seed, t, w) * (0.5 if s else 1) for row, (w, t, s) in zip(scalars.tolist(), arrived, strict=True)
    ]
    torch.testing.assert_close(moved.params, -0.3 / divisor * sum(each), rtol=1e-6, atol=1e-7)
    assert [r.key for r in moved.records] == [direction_key(seed, *name) for name in ((7, 0), (4, 2), (5, 2))]
    reverse = drive.step(method, started(method, drive, 3), [(0.0,)] * 3, metas[::-1], scalars=scalars.flip(0))
    assert torch.equal(moved.params, reverse.params)


def test_local_steps_move_along_directions_of_their_own(drive):
    """K = 2 steps of P = 3 directions: scalar k P + p belongs to direction k P + p of the version's stream."""
    method = DeComFL(local_steps=2, perturbations=3, step_size=0.3)
    scalars = torch.tensor([[1.0, 2.0, -1.0, 4.0, -8.0, 0.5], [3.0, 0.0, 1.0, -2.0, 2.0, 0.5]])
    moved = drive.step(method, started(method, drive, 2), [(0.0,)] * 2, [drive.meta(i, version=2) for i in range(2)],
                       scalars=scalars)  # fmt: skip
    wanted = -0.3 / 3 * along([2.0, 1.0, 0.0, 1.0, -3.0, 0.5], drive.public.seed, 2)
    torch.testing.assert_close(moved.params, wanted, rtol=1e-6, atol=1e-7)


def test_a_private_round_divides_by_the_expected_cohort_whoever_replied(drive):
    """Two of four came: the number of replies is no public constant, so it decides neither value nor bound."""
    public, method = Public(num_clients=9, expected_cohort=4, is_private=True), DeComFL(perturbations=2)
    state = started(method, drive, 0)
    batch = drive.admitted(method, state, [(0.0,)] * 2, clipped=0.5, scalars=torch.tensor([[1.0, 2.0], [3.0, -6.0]]))
    ((name, (value, bound)),) = method.reduce(state, batch, public).items()
    assert (name, value.tolist(), bound.l2) == ("scalars@0", [1.0, -1.0], 0.125)


def test_private_steps_release_what_was_measured_and_no_noise_beside_it(drive):
    """Noise is added to every part: none along the current directions if all replies are of an older version."""
    public = Public(num_clients=4, expected_cohort=2, is_private=True)
    method = DeComFL(buffer_size=2, perturbations=3)
    state = started(method, drive, 3)
    batch = drive.admitted(method, state, [(0.0,)] * 2, [drive.meta(0, version=1), drive.meta(1, version=2)],
                           clipped=0.5, scalars=torch.ones(2, 3))  # fmt: skip
    reduced = method.reduce(state, batch, public)
    assert sorted(reduced) == ["scalars@1", "scalars@2"]
    assert [bound.l2 for _, bound in reduced.values()] == [0.25, 0.25]
    nobody = method.reduce(state, drive.admitted(method, state, [], [], clipped=0.5, scalars=torch.ones(0, 3)), public)
    ((name, (value, bound)),) = nobody.items()
    assert (name, value.tolist(), bound.l2) == ("scalars@3", [0.0] * 3, 0.25)


@pytest.mark.parametrize("method", [DeComFL(buffer_size=2, max_staleness=2), OneByte(buffer_size=2, max_staleness=2)])
def test_too_stale_scalars_are_rejected(drive, method):
    assert method.admit(None, drive.meta(0, staleness=3), drive.public) is REJECT
    assert method.admit(None, drive.meta(0, staleness=2), drive.public) == 1.0
