"""DIFF2: golden noise, telescoping, T = 1 is gradient descent, placements of noise, sensitivity, losses."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diff2_runs import PUBLIC, Bowl, bowl, clipped, full_gradient, run, setting, twelve_examples
from privacy_cohorts import SeededNoise, assert_only_this_scale

from fedopt.clients.gradient_difference import GradientDifference, example_gradients
from fedopt.data.base import ClientIndex
from fedopt.engine.base import Cohort, DenseUpdates
from fedopt.engine.flat_module import spec_of
from fedopt.privacy.base import ClientContext
from fedopt.privacy.gaussian_dp import gaussian_mu_of
from fedopt.privacy.mechanisms._parts import SERVER
from fedopt.privacy.mechanisms.diff2 import GRADIENT, SLOPE, Diff2, rounds_of
from fedopt.privacy.releases import GaussianEvent
from fedopt.privacy.spending import epsilon_of
from fedopt.types import Bound, Message, Public


@pytest.mark.parametrize(
    "epsilon, rounds, every, first, second",
    [(3, 100, 10, 6.2189, 18.6568), (3, 1000, 50, 8.7949, 61.5642), (5, 100, 10, 3.9886, 11.9657)],
)
def test_split_noise_of_the_card(epsilon, rounds, every, first, second):
    """The card's multipliers are over the replace-one sensitivity: half of the ones here."""
    mu = gaussian_mu_of(epsilon, 1e-5)
    made = Diff2().with_noise_level(2 / mu, rounds, setting(every))
    assert made.noise_multiplier == pytest.approx(2 * first, rel=1e-4)
    assert made.difference_noise_multiplier == pytest.approx(2 * second, rel=1e-4)
    planned = made.planned_events(rounds, rounds, None, setting(every))
    assert epsilon_of(planned, "replace_one", 1e-5, "pld") == pytest.approx(epsilon, abs=1e-3)


def test_equal_noise_of_the_card_and_restarts_only():
    assert rounds_of(100, SimpleNamespace(restart_every=1)) == (100, 0)
    made = Diff2(noise_multiplier=2 * 13.9059)
    assert epsilon_of(made.planned_events(100, 100, None, setting(1)), "replace_one", 1e-5, "pld") == pytest.approx(
        3.0, abs=1e-3
    )


@pytest.fixture(scope="module")
def engine():
    """Three clients of four examples."""
    return twelve_examples()


@pytest.mark.parametrize("every", [1, 3, 100])
def test_without_noise_the_estimate_is_the_gradient(engine, every):
    """Telescoping: v_r equals the full gradient at the previous point for every restart interval."""
    for state in run(engine, 5, every):
        assert torch.allclose(state.estimate, full_gradient(engine, state.previous), atol=1e-5)


def test_restarting_every_round_is_gradient_descent(engine):
    point = torch.linspace(-1, 1, 21)
    for state in run(engine, 4, 1):
        point = point - 0.1 * full_gradient(engine, point)
        assert torch.allclose(state.params, point, atol=1e-6)


def test_restarting_every_round_is_private_gradient_descent(engine):
    """T = 1 with the same seed: clipped means over all records, and the noise of the round's own stream."""
    mechanism, point = noisy(), torch.linspace(-1, 1, 21)
    std = 2.0 * 2.0 / (3 * 4)  # z C / (P n)
    for step, state in enumerate(run(engine, 4, 1, mechanism=mechanism, work=clipped(mechanism)), 1):
        rows, _ = example_gradients(engine, point, torch.arange(12))
        mean = (rows * (2.0 / rows.norm(dim=1)).clamp_max(1.0)[:, None]).mean(0)
        point = point - 0.1 * (mean + std * SeededNoise(0).draws("cpu", SERVER, step, 0).normal((21,)))
        assert torch.allclose(state.params, point, atol=1e-6)
    spent = mechanism.planned_events(7, 7, None, setting(1))
    assert spent == ((GaussianEvent(2.0), 7),)


@pytest.mark.parametrize("every", [1, 4, 100])
def test_without_noise_the_rate_on_a_quadratic_is_that_of_gradient_descent(every):
    """The gradient shrinks by (1 - eta curvature) a round for every restart interval."""
    engine, public = bowl(50)
    work = Bowl(50)
    last = run(engine, 40, every, work=work, public=public, lr=0.5)[-1].params
    assert torch.allclose(last, torch.linspace(-1, 1, 50) * (1 - 0.5 * work.curvature) ** 40, atol=1e-5)


def test_the_estimate_errs_by_the_restart_and_by_the_steps_since():
    """Variance of v_r: std_1^2 + std_2^2 times the squared distances since the restart; the rate rests on that law."""
    engine, public = bowl(20_000)
    work, first, later = Bowl(20_000), 0.05, 0.02
    noisy = Diff2(
        clipping_norm=1.2, difference_clipping_norm=1.2, noise_multiplier=12 * first / 1.2,
        difference_noise_multiplier=12 * later / 1.2,
    )  # fmt: skip
    states = run(engine, 6, 3, work=work, mechanism=noisy, public=public, lr=0.5)
    errors, wanted = [], []
    for number, state in enumerate(states):
        since = [s.previous for s in states[number - number % 3 : number + 1]]
        walked = sum(float((b - a).square().sum()) for a, b in pairwise(since))
        errors.append(float((state.estimate - work.curvature * state.previous).square().mean()))
        wanted.append(first**2 + later**2 * walked)
    ratios = torch.tensor(errors) / torch.tensor(wanted)
    tolerance = 4 * (2 / 20_000) ** 0.5
    assert float((ratios - 1).abs().max()) < tolerance, ratios
    assert wanted[2] > 1.5 * wanted[0]  # the differences count


def test_a_loss_is_followed_by_a_restart(engine):
    states = run(engine, 4, 100, lost={(2, 1)})
    assert [state.since_restart for state in states] == [1, 0, 1, 2]
    assert torch.allclose(states[3].estimate, full_gradient(engine, states[3].previous), atol=1e-5)


@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_the_stop_knows_which_kind_of_round_is_due(engine, every):
    """Losses move the schedule; the next release's cost follows them, and a late reply costs the dearer kind."""
    mechanism = Diff2(noise_multiplier=2.0, difference_noise_multiplier=30.0).prepared(setting(every), PUBLIC)
    lost = {(2, 0), (5, 1), (6, 2), (6, 0)}
    states = run(engine, 9, every, mechanism=mechanism, work=clipped(mechanism), lost=lost)  # it asserts the law
    assert {state.since_restart for state in states} >= ({0} if every == 1 else {0, 1})
    assert mechanism.reply_events(mechanism.init(21, PUBLIC)._replace(since_restart=1), PUBLIC) == (GaussianEvent(2.0),)


def test_equal_points_send_exactly_nothing(engine):
    point = torch.linspace(-1, 1, 21)
    message = Message({"params": point, "previous": point.clone()}, {"restart": False})
    reply = GradientDifference().work(Cohort((0,), (0,), (message,), (2,), 0), engine)
    assert float(reply.parts["slope"].rows().abs().max()) == 0.0


@pytest.mark.parametrize("restart", [True, False])
def test_one_example_moves_a_reply_by_at_most_its_bound(engine, restart):
    mechanism = Diff2(clipping_norm=0.3, difference_clipping_norm=0.2, noise_multiplier=1.0)
    work = GradientDifference().protected(mechanism.example_clipping())
    message = Message(
        {"params": torch.linspace(-1, 1, 21), "previous": torch.linspace(-0.5, 1, 21)}, {"restart": restart}
    )
    part = GRADIENT if restart else SLOPE

    def reply():
        return work.work(Cohort((1,), (0,), (message,), (1,), 0), engine).parts[part].rows()[0]

    before, kept = reply(), engine.task.targets[5].clone()
    try:
        engine.task.targets[5] = 1e4
        moved = float((reply() - before).norm())
    finally:
        engine.task.targets[5] = kept
    limit = 2 * mechanism.bound(part, None, PUBLIC).l2
    assert 0 < moved <= limit * (1 + 1e-5)
    assert float(before.norm()) <= limit / 2 * 4


@pytest.mark.parametrize("noise, std", [("central", 0.5), ("distributed", 0.5), ("local", 0.5 * 3**0.5)])
def test_where_the_noise_is_added(noise, std):
    """C = 3, n = 4 each, P = 3, multiplier 2: central std of the mean is 2 * 3 / (3 * 4)."""
    public = Public(3, 3.0, is_private=True, num_examples=np.array([4, 4, 4]), dimension=20_000)
    mechanism = Diff2(clipping_norm=3.0, noise_multiplier=2.0, noise=noise)
    context = ClientContext((0, 1, 2), (0, 0, 0), 1, SeededNoise(), public, (1.0,) * 3)
    parts = mechanism.on_client({GRADIENT: DenseUpdates(torch.zeros(3, 20_000))}, context, None).parts
    mean = parts[GRADIENT].weighted_sum(torch.ones(3, dtype=torch.float64)) / 3
    reduced = {GRADIENT: (mean, Bound(3.0 / 12)), "replies": (torch.tensor([3.0]), Bound(0.0, 0.0, 0.0))}
    release = mechanism.release(reduced, 3, 1, None, SeededNoise(), public)
    # Local noise averages to sqrt(P) times the central one; what is logged is the noise of one reply, 2 * 3 / 4.
    assert_only_this_scale(release.values[GRADIENT], std)
    assert float(release.values["replies"]) == 3.0
    assert release.facts["noise_std"] == pytest.approx(1.5 if noise == "local" else 0.5)
    two = mechanism.release(reduced, 2, 1, None, SeededNoise(), public).facts
    if noise == "distributed":  # a share is missing
        assert two["noise_std"] == pytest.approx(0.5 * (2 / 3) ** 0.5)


def noisy(multiplier=2.0):
    return Diff2(clipping_norm=2.0, difference_clipping_norm=3.0, noise_multiplier=multiplier)


def test_shards_of_one_size_are_one_client(engine):
    """Three clients with four records each are one client with twelve: same estimates with the same central noise."""
    whole = SimpleNamespace(
        device=engine.device,
        data=SimpleNamespace(clients=ClientIndex.from_lists([np.arange(12)])),
        task=engine.task,
    )
    alone = Public(1, 1.0, is_private=True, num_examples=np.array([12]), dimension=21)
    split = run(engine, 4, 2, mechanism=noisy(), work=clipped(noisy()))
    joint = run(whole, 4, 2, mechanism=noisy(), work=clipped(noisy()), public=alone)
    for one, other in zip(split, joint, strict=True):
        assert torch.allclose(one.estimate, other.estimate, atol=1e-5)
        assert float(one.estimate.norm()) > 0.1


def test_differences_of_a_smooth_loss_are_never_clipped_at_its_smoothness(engine):
    """Squared error of a linear model: every example is 2 (|x|^2 + 1)-smooth."""
    torch.manual_seed(0)
    width = engine.task.inputs.shape[1]
    module = torch.nn.Linear(width, engine.task.targets.shape[1])
    loss = engine.task.loss
    task = SimpleNamespace(
        module=module, spec=spec_of(module), inputs=engine.task.inputs, targets=engine.task.targets, loss=loss
    )
    linear = SimpleNamespace(device=engine.device, data=engine.data, task=task)
    public = Public(3, 3.0, is_private=True, num_examples=np.array([4, 4, 4]), dimension=task.spec.size)
    smoothness = 2 * float((engine.task.inputs.square().sum(1) + 1).max()) / engine.task.targets.shape[1]

    def estimates(norm):
        kept = Diff2(
            clipping_norm=math.inf,
            difference_clipping_norm=norm,
            noise_multiplier=0.0,
            difference_noise_multiplier=0.0,
        )
        return [s.estimate for s in run(linear, 4, 100, mechanism=kept, work=clipped(kept), public=public, lr=0.05)]

    for free, bounded in zip(estimates(math.inf), estimates(smoothness), strict=True):
        assert torch.equal(free, bounded)
    assert not torch.allclose(estimates(math.inf)[2], estimates(smoothness / 50)[2], atol=1e-3)


def test_noise_of_differences_vanishes_with_the_step(engine):
    """Difference rounds add noise in proportion to the distance: hardly any at a tiny step, much at a large one."""
    tiny = [s.estimate for s in run(engine, 5, 100, mechanism=noisy(), work=clipped(noisy()), lr=1e-6)]
    assert float((tiny[-1] - tiny[0]).abs().max()) < 1e-4
    exact = full_gradient(engine, torch.linspace(-1, 1, 21))
    assert float((tiny[0] - exact).norm()) > 0.1  # the restart's own noise stays
    large = [s.estimate for s in run(engine, 5, 100, mechanism=noisy(), work=clipped(noisy()), lr=0.3)]
    assert float((large[-1] - large[0]).abs().max()) > 0.1
