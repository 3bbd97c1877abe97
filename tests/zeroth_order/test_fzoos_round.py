"""One FZooS round: counters, corrections, reductions, purity, progress."""

from __future__ import annotations

import math

import pytest
import torch

from fedopt.zeroth_order import fzoos_round as fzoos
from fedopt.zeroth_order import gaussian_process as gp
from fedopt.zeroth_order import query_log, random_features
from fedopt.zeroth_order.directions import uniform
from fedopt.zeroth_order.settings import FzoosSettings, GammaRule, LocalOptimizer

CLIENTS, D, SEED = 3, 8, 5
CENTRES = torch.rand(CLIENTS, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.full((D,), 0.9, dtype=torch.float64)


def objective(points: torch.Tensor) -> torch.Tensor:
    return (points - CENTRES[: len(points), None]).square().sum(-1)


def settings(**options) -> FzoosSettings:
    small = {"features": 400, "window": 40, "feature_window": 60, "candidates": 20, "global_candidates": 30}
    return FzoosSettings(**{**small, "lengthscales": (1.0, 2.0), **options})


class Counter:
    """An objective that counts what it is asked."""

    def __init__(self, function=objective):
        self.function, self.queries, self.largest, self.smallest = function, 0, -1e9, 1e9

    def __call__(self, points):
        self.queries += points.shape[1]
        self.largest, self.smallest = max(self.largest, float(points.max())), min(self.smallest, float(points.min()))
        return self.function(points)


def play(chosen: FzoosSettings, rounds: int, function=objective, clients: int = CLIENTS, **options):
    """The round loop of the card, with a plain mean as the server."""
    maps = random_features.make(D, chosen.features, chosen.feature_lengthscale, SEED)
    counter, point, weights, own = Counter(function), START, None, None
    ids = range(clients)
    log, queries = fzoos.initial_queries(
        query_log.empty(clients, D), point.expand(clients, -1), counter, chosen, fzoos.round_keys(SEED, ids, 0)
    )
    phases = []
    for number in range(1, rounds + 1):
        keys = fzoos.round_keys(SEED, ids, number)
        phase = fzoos.local_phase(
            log, point.expand(clients, -1), maps, weights, own, counter, chosen, keys, number, **options
        )
        point = phase.points.mean(0)
        log, asked = fzoos.active_queries_at(phase.log, point, phase.points, counter, chosen, keys, phase.lengthscales)
        own = fzoos.fit_weights(log, point, maps, chosen)
        weights = own.mean(0)
        queries += phase.queries + asked
        phases.append(phase)
    return point, queries, counter, log, phases, (maps, weights, own)


@pytest.mark.parametrize(
    ("options", "per_round", "initial"),
    [
        ({}, 107, 10),
        ({"local_steps": 4, "active_queries": 2}, 1 + 4 + 2 * 3 + 51, 10),
        ({"query_after_last_step": True, "initial_queries": 0}, 1 + 10 + 50 + 51, 0),
        ({"global_active_queries": 0}, 1 + 10 + 45 + 1, 10),
        ({"active_queries": 0}, 1 + 10 + 51, 10),
    ],
)
def test_query_counters_equal_the_formulas_and_the_calls(options, per_round, initial):
    chosen = settings(global_candidates=60, **options)
    _, queries, counter, log, _, _ = play(chosen, 2)
    assert chosen.queries_per_round() == per_round
    assert queries == counter.queries == log.longest == initial + 2 * per_round


def test_default_counts_are_those_of_the_card():
    assert FzoosSettings().queries_per_round() == 107
    assert 5 * (50 * 107 + 10) == 26_800


def test_progress_on_shared_quadratics():
    def value(point):
        return float(objective(point.expand(CLIENTS, 1, D)).mean())

    point, *_ = play(settings(optimizer=LocalOptimizer(learning_rate=0.02)), 5)
    best = value(CENTRES.mean(0))
    assert value(point) - best < 0.1 * (value(START) - best)


def test_local_phase_is_one_batch_equal_to_one_client_at_a_time():
    chosen = settings()
    _, _, _, log, _, (maps, weights, own) = play(chosen, 1)
    keys = fzoos.round_keys(SEED, range(CLIENTS), 2)
    start = START.expand(CLIENTS, -1)
    together = fzoos.local_phase(log.rows(torch.arange(CLIENTS)), start, maps, weights, own, objective, chosen, keys, 2)
    for i in range(CLIENTS):

        def alone(points, i=i):
            return (points - CENTRES[i]).square().sum(-1)

        one = fzoos.local_phase(
            log.rows(torch.tensor([i])), start[:1], maps, weights, own[i : i + 1], alone, chosen, keys[i : i + 1], 2
        )
        torch.testing.assert_close(one.points[0], together.points[i], rtol=1e-6, atol=1e-8)


def test_first_round_has_no_correction_and_gammas_follow_the_rule():
    *_, phases, _ = play(settings(local_steps=3), 2)
    assert phases[0].gammas == ()
    assert [float(g[0]) for g in phases[1].gammas] == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_corrected_step_goes_along_the_gradient_of_the_mean():
    """One SGD step: gamma = 1 turns every client's own gradient into that of F, gamma = 0 leaves it as it is."""
    _, _, _, log, _, (maps, weights, own) = play(settings(features=4000), 1)
    keys, start = fzoos.round_keys(SEED, range(CLIENTS), 2), START.expand(CLIENTS, -1)
    wanted, alone = 2 * (START - CENTRES.mean(0)), 2 * (START - CENTRES)
    for gamma, target, other in ((1.0, wanted.expand(CLIENTS, -1), alone), (0.0, alone, wanted)):
        chosen = settings(local_steps=1, features=4000, project=False, gamma=GammaRule(rule="constant", value=gamma),
                          optimizer=LocalOptimizer(rule="sgd", learning_rate=1e-3))  # fmt: skip
        forked = log.rows(torch.arange(CLIENTS))
        phase = fzoos.local_phase(forked, start, maps, weights, own, objective, chosen, keys, 2)
        made = (start - phase.points) / 1e-3
        assert float(((made - target).norm(dim=1) / target.norm(dim=1)).max()) < 0.15
        assert float(((made - other).norm(dim=1) / target.norm(dim=1)).min()) > 0.3


def test_one_client_has_no_correction_whatever_gamma():
    def single(points):
        return objective(points)

    with_correction, *_ = play(settings(gamma=GammaRule(rule="constant", value=1.0)), 3, single, clients=1)
    without, *_ = play(settings(gamma=GammaRule(rule="constant", value=0.0)), 3, single, clients=1)
    assert torch.equal(with_correction, without)


def test_gamma_zero_ignores_the_weights():
    zero = settings(gamma=GammaRule(rule="constant", value=0.0))
    _, _, _, log, _, (maps, weights, own) = play(zero, 1)
    keys, start = fzoos.round_keys(SEED, range(CLIENTS), 2), START.expand(CLIENTS, -1)
    every = torch.arange(CLIENTS)
    a = fzoos.local_phase(log.rows(every), start, maps, weights, own, objective, zero, keys, 2)
    b = fzoos.local_phase(log.rows(every), start, maps, None, None, objective, zero, keys, 2)
    assert torch.equal(a.points, b.points)


def test_corrections_sum_to_zero_at_a_common_point():
    *_, (maps, weights, own) = play(settings(), 2)
    corrections = random_features.gradient(maps, START.expand(CLIENTS, -1), weights - own)
    assert float(corrections.norm(dim=1).min()) > 1e-3
    assert float(corrections.sum(0).norm()) < 1e-9


def test_identical_clients_with_identical_logs_are_not_corrected():
    def shared(points):
        return (points - CENTRES[0]).square().sum(-1)

    maps = random_features.make(D, 400, 1.0, SEED)
    asked = [0] * CLIENTS  # one stream of candidates for everybody
    log, _ = fzoos.initial_queries(query_log.empty(CLIENTS, D), START.expand(CLIENTS, -1), shared, settings(), asked)
    own = fzoos.fit_weights(log, START, maps, settings())
    corrections = random_features.gradient(maps, START.expand(CLIENTS, -1), own.mean(0) - own)
    size = random_features.gradient(maps, START.expand(CLIENTS, -1), own).norm()
    assert float(corrections.norm()) < 1e-6 * float(size)
    other, _ = fzoos.initial_queries(
        query_log.empty(CLIENTS, D), START.expand(CLIENTS, -1), objective, settings(), asked
    )
    apart = fzoos.fit_weights(other, START, maps, settings())
    assert float(random_features.gradient(maps, START.expand(CLIENTS, -1), apart.mean(0) - apart).norm()) > 1e-3


def test_oracle_minimises_the_disparity_and_needs_the_gradient():
    generator = torch.Generator().manual_seed(0)
    g, c, target = (torch.randn(20, D, generator=generator, dtype=torch.float64) for _ in range(3))
    best = fzoos.oracle_length(g, c, target)[:, None]

    def disparity(length):
        return (g + length * c - target).square().sum(1)

    for other in (best + 1e-3, best - 1e-3, best * 0, best * 0 + 1):
        assert torch.all(disparity(best) <= disparity(other))
    expected = (g - target).square().sum(1) - ((target - g) * c).sum(1).square() / c.square().sum(1)
    torch.testing.assert_close(disparity(best), expected)
    assert torch.all(fzoos.oracle_length(g, c * 0, target) == 0)
    oracle = settings(gamma=GammaRule(rule="oracle"))
    with pytest.raises(ValueError, match="oracle needs the true global gradient"):
        play(oracle, 2)
    *_, phases, _ = play(oracle, 2, global_gradient=lambda x: 2 * (x - CENTRES.mean(0)))
    assert len(phases[1].gammas) == 10


def test_bound_minimiser_limits():
    def gamma(past_steps=0, **options):
        rule = GammaRule(rule="bound_minimiser", **options)
        return fzoos.bound_minimiser(settings(gamma=rule), D, CLIENTS, past_steps)

    assert gamma(heterogeneity=0.0) == 0
    assert gamma(heterogeneity=1e9) == pytest.approx(1, abs=1e-5)
    assert gamma(contraction=0.5, past_steps=30) > gamma(contraction=0.5) > 0
    omega = D + 2 * (D**0.5 + 1) * torch.log(torch.tensor(20.0)).item()
    assert gamma(heterogeneity=2.0) == pytest.approx(2 / (2 + 2 * omega + 2 * CLIENTS / 400), rel=1e-6)
    *_, phases, _ = play(settings(gamma=GammaRule(rule="bound_minimiser", contraction=0.9)), 3)
    assert float(phases[2].gammas[0][0]) > float(phases[1].gammas[0][0])


def test_the_bound_has_decayed_by_the_steps_before_the_round():
    """Round r comes after (r - 1) T steps; kappa is 1 / l^2 of the first length scale."""
    rule = GammaRule(rule="bound_minimiser", contraction=0.9, heterogeneity=3.0, feature_error=0.25)
    chosen = settings(gamma=rule, local_steps=4, lengthscales=(0.5, 1.0))
    *_, phases, _ = play(chosen, 3, num_clients=7)
    omega = D + 2 * (math.sqrt(D) + 1) * math.log(20)
    for number in (2, 3):
        wanted = 3 / (3 + 2 * omega * 4 * 0.9 ** ((number - 1) * 4) + 2 * 7 * 0.25)
        assert [float(g[0]) for g in phases[number - 1].gammas] == pytest.approx([wanted] * 4)


def test_every_draw_of_a_round_has_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch):
    asked, sizes, whole = [], [], fzoos.uniform

    def watched(keys, count, index, *more):
        asked.append((tuple(keys), index))
        sizes.append(count)
        return whole(keys, count, index, *more)

    monkeypatch.setattr(fzoos, "uniform", watched)
    play(settings(uncertainty="random", local_steps=4, query_after_last_step=True), 2)
    assert len(asked) == 1 + 2 * 2 * (4 + 1) and len(set(asked)) == len(asked)
    assert sizes == [10 * D, *[20 * D, 20] * 4, *[30 * D, 30], *[20 * D, 20] * 4, *[30 * D, 30]]  # points, then scores


def test_projection_keeps_queries_in_the_box():
    outside = settings(optimizer=LocalOptimizer(learning_rate=0.2))
    _, _, counter, *_ = play(outside, 2)
    assert counter.smallest >= 0 and counter.largest <= 1
    _, _, free, *_ = play(outside.model_copy(update={"project": False}), 2)
    assert free.smallest < 0 or free.largest > 1


@pytest.mark.parametrize("score", ["trace", "first_partial"])
def test_active_queries_take_the_highest_scores(score):
    chosen = settings(uncertainty=score, global_candidates=12, global_active_queries=4)
    _, _, _, log, phases, _ = play(chosen, 1)
    keys, every = fzoos.round_keys(SEED, range(CLIENTS), 9), torch.arange(CLIENTS)
    before, point = log.rows(every), START.expand(CLIENTS, -1)
    local, scales = point - torch.linspace(0.05, 0.35, D, dtype=torch.float64), phases[0].lengthscales
    after, asked = fzoos.active_queries_at(log.rows(every), START, local, objective, chosen, keys, scales)
    assert asked == 5
    # The same candidates, scored with the surrogate that knows the value at the global point.
    drawn = point[:, None] + 0.1 * (2 * uniform(keys, 12 * D, 1).view(CLIENTS, 12, D) - 1)
    drawn = drawn.clamp(0, 1)
    known = query_log.append(before, point[:, None], objective(point[:, None]))
    window = query_log.nearest(known, point, chosen.window)
    surrogate = gp.fit(window.points, window.values, chosen.kernel, scales, chosen.ridge, window.mask)
    function = gp.trace_uncertainty if score == "trace" else gp.first_partial_uncertainty
    best = function(surrogate, drawn).topk(4, dim=1).indices
    for i in range(CLIENTS):
        logged = after.points[i, after.longest - 4 : after.longest]
        torch.testing.assert_close(logged.sort(0).values, drawn[i, best[i]].sort(0).values)


def test_scores_differ():
    points = [play(settings(uncertainty=score), 2)[0] for score in ("trace", "first_partial", "random")]
    assert not torch.equal(points[0], points[1]) and not torch.equal(points[0], points[2])


def test_reference_and_paper_differ_from_the_default():
    reference, paper = FzoosSettings.reference(), FzoosSettings.paper()
    assert (reference.kernel, reference.uncertainty, reference.project) == ("matern52", "first_partial", False)
    assert paper.window is None and paper.global_active_queries == 0
    assert paper.queries_per_round() == 1 + 10 + 50 + 1


def test_a_length_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"lengthscales\.1\s+Input should be greater than 0"):
        settings(lengthscales=(1.0, 0.0))


def test_same_seed_same_bits():
    one, *_ = play(settings(), 2)
    two, *_ = play(settings(), 2)
    assert torch.equal(one, two)


def test_safeguard_keeps_the_better_point():
    old, new = torch.zeros(2), torch.ones(2)
    assert torch.equal(fzoos.safeguard(old, 1.0, new, 0.5), new)
    assert torch.equal(fzoos.safeguard(old, 1.0, new, 1.0), old)
