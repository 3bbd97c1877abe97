"""Private scalars: sensitivity, noise scale and stream, reductions, pure epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedopt.privacy.gaussian_dp import gaussian_delta
from fedopt.zeroth_order import private, spsa
from fedopt.zeroth_order.directions import Directions
from fedopt.zeroth_order.seed_log import SeedLog, apply_, replay

D, SEED = 10, 4
TARGETS = torch.randn(6, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
THETA = torch.zeros(D, dtype=torch.float64)


def per_example(points: torch.Tensor) -> torch.Tensor:
    """Examples are rows: ``[6, queries]``."""
    return 0.5 * (points - TARGETS[:, None]).square().sum(-1)


def differences(count: int, step: int = 0) -> torch.Tensor:
    stream = Directions("gaussian", D, spsa.direction_key(SEED, step))
    return spsa.common_scalars(THETA, stream, 1e-2, per_example, count)


def release(clipped, multiplier=0.0, step=0, relation="add_or_remove_one"):
    return private.release_gaussian(
        clipped, multiplier, relation, private.noise_key(SEED, step), spsa.direction_key(SEED, step)
    )


def test_clip_is_odd_idempotent_one_lipschitz_and_the_identity_inside():
    values = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
    cut = private.clip(values, 2.0)
    torch.testing.assert_close(cut, values.clamp(-2, 2))
    torch.testing.assert_close(private.clip(-values, 2.0), -cut)
    torch.testing.assert_close(private.clip(cut, 2.0), cut)
    vectors = 3 * torch.randn(400, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = private.clip(vectors, 2.0)
    assert float(made.norm(dim=1).max()) <= 2 + 1e-12
    distance = (made[:200] - made[200:]).norm(dim=1)
    assert torch.all(distance <= (vectors[:200] - vectors[200:]).norm(dim=1) + 1e-12)
    bad = torch.tensor([[float("nan")], [float("inf")], [0.0], [1.0]])
    assert private.clip(bad, 2.0).flatten().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("count", [1, 3])
def test_sensitivity_under_adversarial_records(count):
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e6):
        rows = scale * torch.randn(20, count, generator=generator, dtype=torch.float64)
        whole = private.clipped_sum(rows, 0.7)
        for i in range(20):
            without = private.clipped_sum(torch.cat((rows[:i], rows[i + 1 :])), 0.7)
            assert float((whole.total - without.total).norm()) <= whole.bound + 1e-9
    opposite = [private.clipped_sum(torch.full((1, count), s * 1e9), 0.7).total for s in (1.0, -1.0)]
    assert float((opposite[0] - opposite[1]).norm()) == pytest.approx(private.sensitivity(0.7, "replace_one"))
    assert private.sensitivity(0.7, "add_or_remove_one") == private.sensitivity(0.7, "zero_out_one") == 0.7


def test_without_noise_and_clipping_it_is_mezo():
    made = release(private.clipped_sum(differences(1), math.inf))
    record = private.record_of(made, 0, spsa.direction_key(SEED, 0), 0.1, normaliser=6)
    theta, plain = spsa.mezo_step(THETA.clone(), "gaussian", 0, SEED, 1e-2, 0.1, per_example)
    torch.testing.assert_close(apply_(THETA.clone(), "gaussian", [record]), theta, rtol=1e-6, atol=1e-7)
    assert record.key == plain.key


def test_aggzo_without_noise_is_spsa_with_k_directions_and_with_one_is_dpzero():
    made = release(private.clipped_sum(differences(4), math.inf))
    record = private.record_of(made, 0, spsa.direction_key(SEED, 0), 0.1, 6)
    theta, _ = spsa.mezo_step(THETA.clone(), "gaussian", 0, SEED, 1e-2, 0.1, per_example, count=4)
    torch.testing.assert_close(apply_(THETA.clone(), "gaussian", [record]), theta, rtol=1e-6, atol=1e-7)
    single = private.clipped_sum(differences(1), 0.5)
    by_hand = differences(1).double().clamp(-0.5, 0.5).sum()
    torch.testing.assert_close(single.total[0], by_hand)


@pytest.mark.parametrize(("relation", "factor"), [("add_or_remove_one", 1.0), ("replace_one", 2.0)])
def test_noise_scale(relation, factor):
    clipped = private.Clipped(torch.zeros(1, dtype=torch.float64), 0.5, 0.0)
    draws = torch.cat([release(clipped, 3.0, step, relation).scalars for step in range(4000)])
    assert release(clipped, 3.0, 0, relation).noise_std == pytest.approx(1.5 * factor)
    error = (2 / 4000) ** 0.5
    for scale in (1, 2 / 3, 3 / 2):
        variance = float((scale * draws).square().mean()) / (1.5 * factor) ** 2
        assert (abs(variance - 1) < 4 * error) is (scale == 1)


def test_update_has_the_clipped_mean_and_the_stated_variance():
    clipped = private.clipped_sum(differences(1), 0.5)
    stream = Directions("gaussian", D, spsa.direction_key(SEED, 0))
    z = stream.block(0, D, dtype=torch.float64)
    rows = []
    for step in range(3000):
        released = private.release_gaussian(
            clipped, 2.0, "add_or_remove_one", private.noise_key(SEED, step), stream.key
        )
        rows.append(apply_(THETA.clone(), "gaussian", [private.record_of(released, 0, stream.key, 0.1, 6)]))
    made = torch.stack(rows)
    mean = -0.1 / 6 * clipped.total * z
    assert float(((made.mean(0) - mean).abs() / (made.std(0) / 3000**0.5)).max()) < 4
    variance = float(made.var(0).sum())
    assert variance == pytest.approx(float((0.1 * 2.0 * 0.5 / 6) ** 2 * z.square().sum()), rel=4 * (2 / 3000) ** 0.5)


def test_noise_never_comes_from_the_direction_stream():
    clipped = private.Clipped(torch.zeros(3, dtype=torch.float64), 1.0, 0.0)
    direction = spsa.direction_key(SEED, 0)
    with pytest.raises(ValueError, match="protects nothing; use noise_key"):
        private.release_gaussian(clipped, 1.0, "replace_one", direction, direction)
    with pytest.raises(ValueError, match="no noise hides an unbounded record"):
        private.release_gaussian(private.Clipped(torch.zeros(1), math.inf, 0.0), 1.0, "replace_one", 2, direction)
    with pytest.raises(ValueError, match="protects nothing"):
        private.release_laplace(clipped, 1.0, "replace_one", direction, direction)
    # The public stream says nothing about the noise: other directions, same noise; same directions, other noise.
    key = private.noise_key(SEED, 0)
    made = private.release_gaussian(clipped, 1.0, "replace_one", key, direction)
    other = private.release_gaussian(clipped, 1.0, "replace_one", key, spsa.direction_key(SEED, 1))
    assert torch.equal(made.scalars, other.scalars)
    steps = range(2000)
    noise = torch.cat(
        [release(private.Clipped(torch.zeros(1, dtype=torch.float64), 1.0, 0.0), 1.0, s).scalars for s in steps]
    )
    first = torch.tensor([float(Directions("gaussian", 1, spsa.direction_key(SEED, s)).block(0, 1)) for s in steps])
    assert abs(float(torch.corrcoef(torch.stack((noise, first.double())))[0, 1])) < 4 / 2000**0.5


def test_no_threshold_on_a_released_scalar_beats_the_bound_of_a_step():
    """Audit: 100,000 steps on each of two neighbouring sums; the exact (epsilon, delta) holds, a tighter one fails."""
    count, multiplier = 100_000, 1.0

    def scalars(total: float, step: int) -> np.ndarray:
        clipped = private.Clipped(torch.full((count,), total, dtype=torch.float64), 0.5, 0.0)
        return np.sort(release(clipped, multiplier, step).scalars.numpy())

    without, with_record = scalars(2.0, 0), scalars(2.5, 1)
    thresholds = np.linspace(0.5, 4.0, 200)
    hit = [1 - np.searchsorted(each, thresholds) / count for each in (with_record, without)]
    for epsilon in (0.5, 1.0, 2.0):
        best = float((hit[0] - math.exp(epsilon) * hit[1]).max())
        error = math.sqrt((1 + math.exp(2 * epsilon)) * 0.25 / count)
        assert best < float(gaussian_delta(epsilon, 1 / multiplier)) + 4 * error
        assert best > float(gaussian_delta(epsilon, 2 / 3 / multiplier)) + error


def test_an_empty_batch_is_still_released():
    clipped = private.clipped_sum(torch.zeros(0, 2), 1.0)
    assert clipped.total.tolist() == [0, 0] and clipped.clip_fraction == 0
    assert torch.all(release(clipped, 1.0).scalars != 0)


def test_laplace_density_ratio_is_epsilon():
    clipped = private.Clipped(torch.zeros(1, dtype=torch.float64), 0.5, 0.0)
    made = private.release_laplace(clipped, 2.0, "add_or_remove_one", private.noise_key(SEED, 0), 1)
    scale = made.noise_std / math.sqrt(2)
    grid = np.linspace(-5, 5, 1001)
    ratio = np.abs(np.abs(grid - 0.5) - np.abs(grid)) / scale
    assert ratio.max() == pytest.approx(2.0)
    draws = torch.cat(
        [
            private.release_laplace(clipped, 2.0, "add_or_remove_one", private.noise_key(SEED, s), 1).scalars
            for s in range(4000)
        ]
    )
    assert float(draws.abs().mean()) == pytest.approx(scale, rel=4 / 4000**0.5)
    assert private.release_laplace(
        private.Clipped(torch.zeros(4), 0.5, 0.0), 2.0, "replace_one", 2, 1
    ).noise_std == pytest.approx(made.noise_std * 4)
    assert private.amplified_epsilon(1.0, 0.1) == pytest.approx(math.log(1 + 0.1 * (math.e - 1)))
    assert private.amplified_epsilon(1.0, 1.0) == pytest.approx(1.0)


def test_released_logs_replay_bit_for_bit():
    theta, log = THETA.clone(), SeedLog("gaussian", D)
    for step in range(5):
        stream = Directions("gaussian", D, spsa.direction_key(SEED, step))
        scalars = spsa.common_scalars(theta, stream, 1e-2, per_example, 2)
        record = private.record_of(release(private.clipped_sum(scalars, 1.0), 1.0, step), step, stream.key, 0.1, 6)
        apply_(theta, "gaussian", [record])
        log = log.extend([record])
    assert torch.equal(replay(THETA, SeedLog.from_bytes(log.to_bytes())), theta)


def test_clipping_biases_heavy_tails_and_aggzo_shrinks_the_gap():
    """A documented limit: the clipped mean is not the gradient; K directions with c = beta / sqrt(K) are closer."""
    targets = torch.zeros(40, D, dtype=torch.float64)
    targets[0] = -400.0
    gradient = -targets.mean(0)
    shares = {}
    for count, steps in ((1, 1200), (64, 40)):
        total = torch.zeros(D, dtype=torch.float64)
        for step in range(steps):
            z = Directions("gaussian", D, spsa.direction_key(9, step)).matrix(count, dtype=torch.float64)
            made = private.clipped_sum(-targets @ z.T, 400 * D**0.5 / count**0.5)
            total += made.total @ z / 40 / steps
        shares[count] = float(total @ gradient / gradient.square().sum())
    # Along the gradient the clipped estimate is E[min(x^2, |x|)] = 0.68 of it for one direction.
    assert shares[1] == pytest.approx(0.683, abs=0.06) and 0.9 < shares[64] < 1.0


@pytest.mark.parametrize("count", [64, 1024])
def test_norms_of_aggzo_shrink_with_the_root_of_the_directions(count):
    """|a(x)| is near |gradient| / sqrt(K), so that a threshold beta / sqrt(K) clips alike for every K."""
    norms = TARGETS.norm(dim=1)  # gradients at zero
    rows = differences(count)
    found = torch.stack([private.clipped_sum(row[None], math.inf).total.norm() for row in rows]) * count**0.5
    torch.testing.assert_close(found, norms, rtol=5 / (2 * count) ** 0.5, atol=0)


def test_placements():
    rows = torch.tensor([[3.0], [5.0]])
    assert private.client_scalar(rows, 1.0).tolist() == [1.0] and private.client_scalar(rows, 9.0).tolist() == [4.0]
    share = private.distributed_share_std(2.0, 0.5, 16)
    assert share == 0.25 and share * 16**0.5 == 2.0 * 0.5
    with pytest.raises(ValueError, match="at least one surviving client"):
        private.distributed_share_std(2.0, 0.5, 0)
    with pytest.raises(ValueError, match="positive public constant, got 0"):
        private.record_of(private.Released(torch.zeros(1), 0.0), 0, 1, 0.1, 0)


def test_closed_form_of_dpzero():
    assert private.dpzero_noise_std(1.0, 1000, 1000, 6.0, 1e-5) == pytest.approx(0.1087, abs=5e-5)
    for epsilon in (0.01, 1.0, 6.0, 40.0, 80.0):  # sufficient by the exact curve: sensitivity 2 c / n, T steps
        for delta in (1e-8, 1e-5, 1e-2, 0.3):
            mu = 2 / 1000 * math.sqrt(1000) / private.dpzero_noise_std(1.0, 1000, 1000, epsilon, delta)
            assert float(gaussian_delta(epsilon, mu)) <= delta
    assert float(gaussian_delta(174.0, 174 / math.sqrt(8 * math.log(math.e + 174e5)))) > 1e-5  # and false further up
    with pytest.raises(ValueError, match="not valid for epsilon 100"):
        private.dpzero_noise_std(1.0, 1000, 1000, 100.0, 1e-5)


def test_private_vote_has_the_odds_of_the_mechanism():
    scalars = torch.tensor([1.0, 1.0, -1.0])
    votes = [private.private_vote(scalars, 1.5, private.noise_key(SEED, s), 1) for s in range(4000)]
    odds = 1 / (1 + math.exp(-0.75))
    assert np.mean(np.array(votes) == 1) == pytest.approx(odds, abs=4 * math.sqrt(odds * (1 - odds) / 4000))
    # Replacing one sign changes the log odds by epsilon.
    assert 0.75 - (-0.75) == 1.5
    assert private.private_vote(-torch.ones(10_000), 5.0, 3, 1) == -1.0
