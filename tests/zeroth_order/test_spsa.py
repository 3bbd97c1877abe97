"""MeZO, Just-One-Byte, DeComFL, FeedSign: unbiased scalars, reductions to each other, replay."""

from __future__ import annotations

import itertools

import pytest
import torch

from fedopt.zeroth_order import one_byte, spsa
from fedopt.zeroth_order.directions import Directions
from fedopt.zeroth_order.seed_log import Record, SeedLog, apply_, replay

COHORT, D, SEED, RADIUS = 3, 10, 7, 1e-3
TARGETS = torch.randn(COHORT, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
THETA = torch.randn(D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def losses(points: torch.Tensor) -> torch.Tensor:
    """Client i's half squared distance to its target, at its own or at common points."""
    return 0.5 * (points - TARGETS[:, None]).square().sum(-1)


def one_client(points: torch.Tensor) -> torch.Tensor:
    return losses(points)[:1]


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_common_scalars_are_directional_derivatives(scheme):
    stream = Directions("gaussian", D, spsa.direction_key(SEED, 0))
    made = spsa.common_scalars(THETA, stream, 1e-5, losses, 4, 2, scheme).double()
    expected = (THETA - TARGETS) @ stream.matrix(4, 2, dtype=torch.float64).T
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)


def test_many_directions_are_evaluated_in_pieces_of_bounded_size(monkeypatch):
    """Never a matrix of all directions: 40 of them in calls of at most 6 perturbed models, with the same scalars."""
    stream, sizes = Directions("rademacher", D, spsa.direction_key(SEED, 0)), []

    def watched(points):
        sizes.append(points.numel())
        return losses(points)

    whole = {s: spsa.common_scalars(THETA, stream, RADIUS, losses, 40, 0, s) for s in ("central", "forward")}
    monkeypatch.setattr(spsa, "_AT_ONCE", 6 * D)
    for scheme, wanted in whole.items():
        assert torch.equal(spsa.common_scalars(THETA, stream, RADIUS, watched, 40, 0, scheme), wanted)
    assert max(sizes) == 6 * D and len(sizes) == 14 + 1 + 14


def test_own_scalars_use_own_directions():
    streams = [Directions("rademacher", D, spsa.direction_key(SEED, 0, w)) for w in range(COHORT)]
    made = spsa.own_scalars(THETA[None], streams, RADIUS, losses, [0, 4, 2]).double()
    rows = torch.stack([s.block(0, D, i, dtype=torch.float64) for s, i in zip(streams, (0, 4, 2), strict=True)])
    torch.testing.assert_close(made, ((THETA - TARGETS) * rows).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_estimate_is_unbiased_with_the_moment_of_the_card(count):
    gradient = (THETA - TARGETS)[0]
    rows = []
    for step in range(600):
        _, record = spsa.mezo_step(THETA.clone(), "gaussian", step, SEED, 0.1, 1.0, one_client, count)
        rows.append(-apply_(torch.zeros(D, dtype=torch.float64), "gaussian", [record]))
    made = torch.stack(rows)
    assert float(((made.mean(0) - gradient) / (made.std(0) / 600**0.5)).abs().max()) < 4
    ratios = made.square().sum(1) / gradient.square().sum()
    error = float(ratios.std()) / 600**0.5
    assert abs(float(ratios.mean()) - (D + count + 1) / count) < 4 * error


def test_mezo_goes_down_and_replays():
    theta, log = THETA.float(), SeedLog("rademacher", D)
    for step in range(200):
        theta, record = spsa.mezo_step(theta, "rademacher", step, SEED, RADIUS, 0.02, losses)
        log = log.extend([record])
    assert float(losses(theta.double()[None, None]).mean()) < float(losses(THETA[None, None]).mean())
    assert torch.equal(replay(THETA.float(), log), theta)
    assert SeedLog.from_bytes(log.to_bytes("float32")) == log


def test_byte_workers_equal_one_worker_with_all_directions():
    """W workers, G scalars each, mean rule: WG-direction SPSA up to the byte."""
    count = 2
    codes = spsa.byte_messages(THETA, "gaussian", 5, SEED, range(COHORT), RADIUS, losses, count)
    records = spsa.byte_records({w: codes[w] for w in range(COHORT)}, 5, SEED, 0.1)
    expected = THETA.clone()
    for w in range(COHORT):
        stream = Directions("gaussian", D, spsa.direction_key(SEED, 5, w))
        for k in range(count):
            z = stream.block(0, D, k, dtype=torch.float64)
            expected -= 0.1 / (COHORT * count) * float(one_byte.decode(codes[w, k : k + 1])) * z
    torch.testing.assert_close(apply_(THETA.clone(), "gaussian", records), expected)
    rho = ((THETA - TARGETS)[0] * Directions("gaussian", D, spsa.direction_key(SEED, 5, 0)).block(0, D)).sum()
    assert float(one_byte.decode(codes[0, :1])) == pytest.approx(float(rho), rel=0.07)


def test_byte_records_do_not_depend_on_arrival_and_count_what_came():
    codes = spsa.byte_messages(THETA, "rademacher", 1, SEED, range(COHORT), RADIUS, losses, 3)
    forward = spsa.byte_records({0: codes[0], 1: codes[1][:1], 2: codes[2]}, 1, SEED, 0.1)
    backward = spsa.byte_records({2: codes[2], 1: codes[1][:1], 0: codes[0]}, 1, SEED, 0.1)
    assert forward == backward and forward[0].step_size == pytest.approx(0.1 / 7)
    root = spsa.byte_records({0: codes[0]}, 1, SEED, 0.1, "root")
    assert root[0].step_size == pytest.approx(0.1 / 3**0.5)
    assert spsa.byte_records({}, 1, SEED, 0.1) == []


def test_byte_machines_that_join_by_log_or_by_weights_agree_bit_for_bit():
    log, live = SeedLog("rademacher", D), THETA.float()
    joined_by_weights = None
    for step in range(6):
        codes = spsa.byte_messages(live, "rademacher", step, SEED, range(COHORT), RADIUS, losses, 2, stochastic=True)
        if step == 3:
            joined_by_weights = live.clone()
        records = spsa.byte_records(dict(enumerate(codes)), step, SEED, 0.05)
        apply_(live, "rademacher", records)
        if joined_by_weights is not None:
            apply_(joined_by_weights, "rademacher", records)
        log = log.extend(records)
    joined_by_log = replay(THETA.float(), SeedLog.from_bytes(log.to_bytes("byte")))
    assert torch.equal(joined_by_weights, live) and torch.equal(joined_by_log, live)
    assert log.num_scalars == 6 * COHORT * 2


def test_decomfl_with_one_client_and_one_step_is_mezo():
    scalars = spsa.decomfl_local(THETA, "gaussian", 4, SEED, 1, RADIUS, 0.1, lambda k: one_client)
    records = spsa.decomfl_records(scalars, 4, SEED, 0.1)
    theta, record = spsa.mezo_step(THETA.clone(), "gaussian", 4, SEED, RADIUS, 0.1, one_client)
    assert records == [record]
    assert torch.equal(apply_(THETA.clone(), "gaussian", records), theta)


def test_decomfl_with_one_step_and_all_clients_is_the_scalar_mean():
    scalars = spsa.decomfl_local(THETA, "gaussian", 4, SEED, COHORT, RADIUS, 0.1, lambda k: losses, 1, 3)
    _, record = spsa.mezo_step(THETA.clone(), "gaussian", 4, SEED, RADIUS, 0.1, losses, 3)
    assert spsa.decomfl_records(scalars, 4, SEED, 0.1) == [record]
    assert record.step_size == pytest.approx(0.1 / 3)


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_decomfl_clients_drift_and_the_server_averages(scheme):
    """Every local step has an objective of its own, as it has a batch: here (k + 1) times the losses."""
    local_steps, perturbations = 3, 2

    def losses_at(k):
        return lambda points: (k + 1) * losses(points)

    scalars = spsa.decomfl_local(
        THETA, "gaussian", 2, SEED, COHORT, 1e-4, 0.1, losses_at, local_steps, perturbations, scheme
    )
    assert scalars.shape == (COHORT, local_steps, perturbations)
    stream = Directions("gaussian", D, spsa.direction_key(SEED, 2))
    z = stream.matrix(local_steps * perturbations, dtype=torch.float64)
    for i in range(COHORT):
        model = THETA.clone()
        for k in range(local_steps):
            rows = z[k * perturbations : (k + 1) * perturbations]
            torch.testing.assert_close(
                scalars[i, k].double(), (k + 1) * rows @ (model - TARGETS[i]), rtol=2e-3, atol=2e-3
            )
            model = model - 0.1 / perturbations * scalars[i, k].double() @ rows
    records = spsa.decomfl_records(scalars, 2, SEED, 0.1)
    moved = apply_(THETA.clone(), "gaussian", records)
    torch.testing.assert_close(moved, THETA - 0.05 * scalars.double().mean(0).flatten() @ z, rtol=1e-6, atol=1e-6)


def test_decomfl_catching_up_gives_the_bits_of_never_leaving():
    server, log = THETA.float(), SeedLog("rademacher", D)
    left_at_two = None
    for round_number in range(6):
        if round_number == 2:
            left_at_two = server.clone()
        scalars = spsa.decomfl_local(
            server, "rademacher", round_number, SEED, COHORT, RADIUS, 0.02, lambda k: losses, 2, 2
        )
        records = spsa.decomfl_records(scalars, round_number, SEED, 0.02)
        log = log.extend(records)
        apply_(server, "rademacher", records)
    assert torch.equal(replay(left_at_two, log.since(2)), server)


def test_feedsign_votes():
    assert spsa.feedsign_vote(torch.tensor([3.0, -1.0, 0.5])) == 1.0
    assert spsa.feedsign_vote(torch.tensor([-3.0, -1.0, 0.5])) == -1.0
    assert spsa.feedsign_vote(torch.tensor([3.0, -1.0])) == 0.0
    assert spsa.feedsign_record(3, SEED, 0.0, 0.1) == []
    (record,) = spsa.feedsign_record(3, SEED, -1.0, 0.1)
    assert record == Record(3, spsa.direction_key(SEED, 3), (-1.0,), 0.1)


def test_feedsign_ignores_the_size_of_losses_and_with_one_client_is_sign_spsa():
    stream = Directions("gaussian", D, spsa.direction_key(SEED, 0))
    scalars = spsa.common_scalars(THETA, stream, RADIUS, losses)[:, 0]
    scaled = spsa.common_scalars(THETA, stream, RADIUS, lambda p: 250 * losses(p))[:, 0]
    assert spsa.feedsign_vote(scalars) == spsa.feedsign_vote(scaled)
    assert spsa.feedsign_vote(scalars[:1]) == float(scalars[0].sign())
    assert spsa.feedsign_vote(scalars[:1].repeat(5)) == spsa.feedsign_vote(scalars[:1])


def test_one_byzantine_client_moves_the_mean_but_not_a_clear_vote():
    honest = torch.tensor([1.0, 2.0, 0.5, 0.1])
    for attack in (-1e6, 1e6):
        scalars = torch.cat((honest, torch.tensor([attack])))
        assert spsa.feedsign_vote(scalars) == 1.0
        (mean,) = spsa.mean_record(0, 1, scalars[:, None], 1.0).scalars
        assert abs(mean) > 1e5


def test_one_byzantine_client_changes_a_vote_only_where_the_others_are_within_one():
    """All votes of up to six honest clients."""
    changed = []
    for honest in (v for n in range(1, 7) for v in itertools.product((-1.0, 1.0), repeat=n)):
        alone, margin = spsa.feedsign_vote(torch.tensor(honest)), abs(sum(honest))
        votes = {spsa.feedsign_vote(torch.tensor([*honest, attack])) for attack in (-1e9, 0.0, 1e9)}
        assert votes == {alone} or margin <= 1
        changed += [margin] * (votes != {alone})
    assert set(changed) == {0.0, 1.0}


def test_keys_do_not_collide_over_steps_and_workers():
    keys = {spsa.direction_key(SEED, step, worker) for step in range(200) for worker in range(200)}
    keys |= {spsa.direction_key(SEED, step) for step in range(200)}
    assert len(keys) == 200 * 200 + 200
