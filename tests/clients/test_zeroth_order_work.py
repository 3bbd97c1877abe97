"""FZooS and the finite-difference baselines end to end: counters, reductions, variants, models as black boxes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from zeroth_order_runs import (
    COMFL,
    DIFFERENCES,
    DIGITS,
    FZOOS,
    QUADRATICS,
    SPSA,
    TWO,
    D,
    N,
    Quick,
    scenario,
)

from fedopt.clients.finite_difference import FiniteDifference
from fedopt.problems import ConfigurationError
from fedopt.zeroth_order import fzoos_round, query_log, random_features
from fedopt.zeroth_order import message_costs as costs


def test_fzoos_counts_queries_and_bytes_of_the_card():
    run, features = Quick(FZOOS, TWO, steps=6), 60
    assert [row["phase"] for row in run.rounds] == ["points", "correction"] * 3
    first, second = 1 + 3 + 5 * 2, 1 + 7
    spent = np.diff([0, *(row["queries"] for row in run.rounds)]).tolist()
    assert spent == [N * (first + 10), N * second, N * first, N * second, N * first, N * second]
    up = np.diff([0, *(row["uplink_bytes"] for row in run.rounds)]).tolist()
    assert up == [N * 4 * D, N * 4 * features] * 3
    down = np.diff([0, *(row["downlink_bytes"] for row in run.rounds)]).tolist()
    assert down == [N * (4 * D + 8), N * 4 * D, *[N * 4 * features, N * 4 * D] * 2]
    assert [row["queries"] for row in run.updates[:N]] == [first + 10] * N
    assert run.values[-1] < 0.7 * run.values[0]


def test_fzoos_in_one_exchange_sends_both_together():
    run = Quick({**FZOOS, "global_active_queries": 0, "global_candidates": 0}, {**TWO, "exchanges": 1}, steps=3)
    assert [row["phase"] for row in run.rounds] == ["points"] * 3
    assert np.diff([row["uplink_bytes"] for row in run.rounds]).tolist() == [N * 4 * (D + 60)] * 2
    assert np.diff([row["downlink_bytes"] for row in run.rounds]).tolist() == [N * 4 * (D + 60)] * 2
    assert run.values[-1] < run.values[0]


def test_one_client_is_not_corrected():
    alone = {**QUADRATICS, "clients": 1}
    free = {**FZOOS, "gamma": {"rule": "constant", "value": 0.0}}
    one, other = (Quick(client, TWO, steps=4, data=alone).params for client in (FZOOS, free))
    assert torch.equal(one, other)


def test_correction_matters_and_gamma_zero_is_not_the_default():
    free = {**FZOOS, "gamma": {"rule": "constant", "value": 0.0}}
    assert not torch.equal(Quick(FZOOS, TWO, steps=4).params, Quick(free, TWO, steps=4).params)


def test_corrections_cancel_in_the_mean():
    run = Quick(FZOOS, TWO, steps=2)
    own = torch.stack([run.parts.computation.states.get(i)["weights"] for i in range(N)])
    assert torch.allclose(own.mean(0), run.state.correction, atol=1e-5)


@pytest.mark.parametrize("exchanges", [1, 2])
def test_the_server_moves_by_its_rate_times_the_mean(exchanges):
    whole, half = (Quick(FZOOS, {**TWO, "exchanges": exchanges, "server_lr": lr}, steps=1) for lr in (1.0, 0.5))
    torch.testing.assert_close(half.params - half.start, (whole.params - whole.start) / 2, rtol=1e-5, atol=1e-7)
    assert float((whole.params - whole.start).norm()) > 0.01


def test_one_exchange_fits_weights_around_the_clients_own_last_point():
    """A window of 6 of the 24 queries: those nearest to the end of the local steps, not to their start."""
    client = {**FZOOS, "global_active_queries": 0, "global_candidates": 0, "feature_window": 6,
              "optimizer": {"learning_rate": 0.05}}  # fmt: skip
    run = Quick(client, {**TWO, "exchanges": 1}, steps=1)
    settings, maps = run.parts.scenario.client, random_features.make(D, 60, 1.0, 1)
    for i in range(N):
        state = run.parts.computation.states.get(i)
        log = query_log.stack([(state["points"], state["values"])], D)
        own, other = (
            fzoos_round.fit_weights(log, x, maps, settings)[0].float() for x in (state["local"], run.start.double())
        )
        torch.testing.assert_close(state["weights"], own, rtol=1e-3, atol=1e-3)
        assert float((own - other).norm()) > 0.1 * float(own.norm())


def test_fzoos_with_partial_participation_and_losses():
    run = Quick(
        FZOOS, TWO, steps=6, sampling={"kind": "fixed", "cohort_size": 2}, devices={"dropout": 0.3}
    )  # fmt: skip
    assert len(run.rounds) == 6 and torch.isfinite(run.params).all()


@pytest.mark.parametrize("client", [FZOOS, {**DIFFERENCES, "method": "scaffold1"}], ids=["fzoos", "scaffold1"])
def test_a_client_without_a_correction_of_its_own_is_not_corrected(client, monkeypatch: pytest.MonkeyPatch):
    """One client per round. Of fifty, the second round's is new; of two, one returns before long and is corrected."""

    def runs(clients: int, steps: int) -> Quick:
        data, sampling = {**QUADRATICS, "clients": clients}, {"kind": "fixed", "cohort_size": 1}
        return Quick(client, TWO, steps=steps, data=data, sampling=sampling)

    new, returning = runs(50, 3), runs(2, 12)
    asked = [row["client_id"] for row in new.updates]
    assert asked[0] == asked[1] != asked[2] and float(new.state.correction.norm()) > 0
    monkeypatch.setattr(FiniteDifference, "_correction", lambda *_: None)
    monkeypatch.setattr(fzoos_round, "correction_length", lambda *_: torch.zeros(1))
    assert torch.equal(new.params, runs(50, 3).params)
    assert not torch.equal(returning.params, runs(2, 12).params)


@pytest.mark.parametrize("rule", ["oracle", "bound_minimiser"])
def test_other_gamma_rules_go_down(rule):
    run = Quick({**FZOOS, "gamma": {"rule": rule}}, TWO, steps=4)
    assert run.values[-1] < run.values[0]


def test_the_oracle_is_told_the_gradient_of_the_mean(monkeypatch: pytest.MonkeyPatch):
    seen, whole = [], fzoos_round.oracle_length

    def watched(gradient, correction, target):
        seen.append(target)
        return whole(gradient, correction, target)

    monkeypatch.setattr(fzoos_round, "oracle_length", watched)
    run = Quick({**FZOOS, "gamma": {"rule": "oracle"}, "local_steps": 1}, TWO, steps=2)
    at = run.params.double()  # where the second round starts
    Quick({**FZOOS, "gamma": {"rule": "oracle"}, "local_steps": 1}, TWO, steps=4)
    torch.testing.assert_close(seen[0], (20 * (2 * (20 * at - 10) + 1) / (10 * D)).expand(N, -1))


@pytest.mark.parametrize("exchanges", [1, 2])
def test_clients_are_told_the_round_by_which_uncertainty_has_decayed(exchanges, monkeypatch: pytest.MonkeyPatch):
    seen, whole = [], fzoos_round.bound_minimiser

    def watched(settings, dimension, clients, past_steps):
        seen.append((clients, past_steps))
        return whole(settings, dimension, clients, past_steps)

    monkeypatch.setattr(fzoos_round, "bound_minimiser", watched)
    Quick({**FZOOS, "gamma": {"rule": "bound_minimiser"}}, {**TWO, "exchanges": exchanges}, steps=3 * exchanges)
    assert seen == [(N, 3)] * 3 + [(N, 6)] * 3


@pytest.mark.parametrize("last", [False, True])
def test_fzoos_reports_its_value_at_the_local_and_then_at_the_global_point(last):
    """Also where active queries follow the last of either; here F(x) is the mean of all clients' values."""
    run = Quick({**FZOOS, "query_after_last_step": last}, TWO, steps=1)
    local = torch.stack([run.parts.computation.states.get(i)["local"] for i in range(N)])
    values = run.parts.data.objective.values(range(N), local[:, None])
    assert run.losses == [pytest.approx(float(values.mean()), rel=1e-6), pytest.approx(run.values[1], rel=1e-5)]


def test_variants_are_named_and_can_be_overridden():
    paper = scenario({"kind": "fzoos", "variant": "paper", "features": 9}, TWO).client
    assert paper.window is None and paper.global_active_queries == 0 and paper.features == 9
    reference = scenario({"kind": "fzoos", "variant": "reference", "project": True}, TWO).client
    assert reference.kernel == "matern52" and reference.project and reference.uncertainty == "first_partial"
    program = scenario({"kind": "finite_difference", "variant": "reference", "count": 4}, {"kind": "fedavg"}).client
    assert program.directions == "orthogonal_unscaled" and not program.project


def test_baselines_count_queries_and_bytes():
    cost, per = costs.vector(D).uplink_bytes, 1 + 3 * 5
    zo = Quick(DIFFERENCES, {"kind": "fedavg"}, steps=2).rounds[-1]
    assert (zo["queries"], zo["uplink_bytes"], zo["downlink_bytes"]) == (2 * N * per, 2 * N * cost, 2 * N * cost)
    two = Quick({**DIFFERENCES, "method": "scaffold2"}, {"kind": "scaffold"}, steps=2).rounds[-1]
    assert (two["queries"], two["uplink_bytes"], two["downlink_bytes"]) == (2 * N * per, 4 * N * cost, 4 * N * cost)
    one = Quick({**DIFFERENCES, "method": "scaffold1"}, {**TWO, "seed_bytes": 0}, steps=4).rounds[-1]
    assert (one["queries"], one["uplink_bytes"], one["downlink_bytes"]) == (
        2 * N * (per + 5),
        4 * N * cost,
        4 * N * cost,
    )
    seeded = Quick({**DIFFERENCES, "method": "scaffold1"}, TWO, steps=4).rounds[-1]
    assert seeded["downlink_bytes"] == 4 * N * cost + 8 * N, "FZooS' seed, which SCAFFOLD has to switch off"


def test_reductions_to_fedzo():
    plain = Quick(DIFFERENCES, {"kind": "fedavg"}, steps=3).params
    assert torch.equal(
        plain, Quick({**DIFFERENCES, "method": "fedprox", "proximal": 0.0}, {"kind": "fedavg"}, steps=3).params
    )
    pulled = Quick({**DIFFERENCES, "method": "fedprox"}, {"kind": "fedavg"}, steps=3).params
    assert not torch.equal(plain, pulled)
    alone = {**QUADRATICS, "clients": 1}
    single = Quick(DIFFERENCES, {"kind": "fedavg"}, steps=3, data=alone).params
    two = Quick({**DIFFERENCES, "method": "scaffold2"}, {"kind": "scaffold"}, steps=3, data=alone).params
    assert torch.allclose(single, two, atol=1e-6)


@pytest.mark.parametrize("method", ["fedzo", "fedprox", "scaffold1", "scaffold2"])
def test_baselines_equal_their_loops_on_exact_gradients(method):
    """All d orthogonal directions and central differences are exact on quadratics: two rounds of two steps by hand."""
    client = {**DIFFERENCES, "method": method, "local_steps": 2, "count": D, "scheme": "central", "project": False,
              "proximal": 3.0, "optimizer": {"rule": "sgd", "learning_rate": 0.02}}  # fmt: skip
    aggregator = {"scaffold1": TWO, "scaffold2": {"kind": "scaffold"}}.get(method, {"kind": "fedavg"})
    unclipped = {**QUADRATICS, "clip": False}
    run = Quick(client, aggregator, steps=4 if method == "scaffold1" else 2, data=unclipped)

    def slope(points: torch.Tensor) -> torch.Tensor:
        return run.parts.data.objective.gradients(range(N), points)

    x, control = run.start.double(), torch.zeros(N, D, dtype=torch.float64)
    for number in range(2):
        y, seen = x.expand(N, -1), []
        for _ in range(2):
            seen.append(slope(y))
            pull = 3.0 * (y - x) if method == "fedprox" and number else 0.0
            y = y - 0.02 * (seen[-1] + pull + control.mean(0) - control)
        x = y.mean(0)
        if method == "scaffold1":
            control = slope(x.expand(N, -1))
        elif method == "scaffold2":
            control = torch.stack(seen).mean(0)
    torch.testing.assert_close(run.params.double(), x, rtol=0, atol=2e-6)
    if method == "scaffold2":
        torch.testing.assert_close(run.state.control.double(), control.mean(0), rtol=1e-4, atol=1e-4)


def test_one_client_of_scaffold_is_fedzo():
    """All d orthogonal directions and central differences: the names of directions differ, the estimates do not."""
    alone, exact = {**QUADRATICS, "clients": 1}, {**DIFFERENCES, "count": D, "scheme": "central"}
    plain = Quick(exact, {"kind": "fedavg"}, steps=3, data=alone).params
    one = Quick({**exact, "method": "scaffold1"}, TWO, steps=6, data=alone).params
    two = Quick({**exact, "method": "scaffold2"}, {"kind": "scaffold"}, steps=3, data=alone).params
    assert torch.allclose(plain, one, atol=1e-5) and torch.allclose(plain, two, atol=1e-5)


def test_messages_have_the_sizes_of_the_cards_table():
    """Bytes per client and round from round 2 on, d = 300 and M = 10,000."""
    data = {**QUADRATICS, "dimension": 300, "clients": 2}
    small = {"local_steps": 1, "count": 2}
    cases: dict[str, tuple[Any, Any, int, int]] = {
        "FZooS": ({**FZOOS, "features": 10_000}, TWO, 2, 41_200),
        "FedZO": ({**DIFFERENCES, **small}, {"kind": "fedavg"}, 1, 1_200),
        "FedProx": ({**DIFFERENCES, **small, "method": "fedprox"}, {"kind": "fedavg"}, 1, 1_200),
        "SCAFFOLD-I": ({**DIFFERENCES, **small, "method": "scaffold1"}, {**TWO, "seed_bytes": 0}, 2, 2_400),
        "SCAFFOLD-II": ({**DIFFERENCES, **small, "method": "scaffold2"}, {"kind": "scaffold"}, 1, 2_400),
    }
    for name, (client, aggregator, steps, size) in cases.items():
        rounds = Quick(client, aggregator, steps=2 * steps, data=data).rounds
        for way in ("uplink_bytes", "downlink_bytes"):
            assert rounds[-1][way] - rounds[steps - 1][way] == 2 * size, (name, way)


def test_one_sgd_step_is_an_averaged_gradient_step():
    """All d orthogonal directions, central: exact on quadratics, where F has the gradient 20 (2 x + 1) / 10 d."""
    client = {**DIFFERENCES, "local_steps": 1, "count": D, "scheme": "central", "project": False,
              "optimizer": {"rule": "sgd", "learning_rate": 0.01}}  # fmt: skip
    run = Quick(client, {"kind": "fedavg"}, steps=1)
    x = 20 * run.start.double() - 10
    assert torch.allclose(run.params.double(), run.start - 0.01 * 20 * (2 * x + 1) / (10 * D), atol=1e-6)


def test_all_distinct_coordinates_are_a_gradient_step():
    client = {**DIFFERENCES, "local_steps": 1, "count": D, "scheme": "central", "project": False,
              "optimizer": {"rule": "sgd", "learning_rate": 0.01}}  # fmt: skip
    frames = [Quick({**client, "directions": kind}, {"kind": "fedavg"}, steps=2).params
              for kind in ("distinct_coordinates", "orthogonal")]  # fmt: skip
    assert torch.allclose(*frames, atol=1e-6)


@pytest.mark.parametrize("client", [DIFFERENCES, FZOOS], ids=["fedzo", "fzoos"])
def test_iterates_are_projected_where_the_problem_lives_in_the_cube_and_where_asked(client):
    """Centres of plain quadratics lie at 3; a cube's iterates leave it if the step is large and nobody projects."""
    far = {"kind": "quadratics", "clients": 2, "dimension": 4, "centers": [3.0, 3.0]}
    free = {**client, "optimizer": {"learning_rate": 2.0}}
    assert float(Quick(free, {"kind": "fedavg"}, steps=2, data=far).params.max()) > 1.2
    kept, left = (Quick({**free, "project": p}, {"kind": "fedavg"}, steps=2).params for p in (True, False))
    assert float(kept.min()) >= 0 and float(kept.max()) <= 1
    assert float(left.min()) < 0 or float(left.max()) > 1


def test_safeguard_never_rises_and_counts_its_queries():
    wild = {**DIFFERENCES, "optimizer": {"rule": "sgd", "learning_rate": 3.0}}
    free = Quick(wild, {"kind": "fedavg"}, steps=6)
    kept = Quick(wild, {"kind": "safeguard"}, steps=12)
    assert any(after > before for before, after in pairwise(free.values))
    checked = kept.values[1::2]
    assert all(after <= before + 1e-9 for before, after in pairwise(checked))
    assert kept.rounds[-1]["queries"] == 6 * N * (16 + 2)
    assert kept.rounds[-1]["uplink_bytes"] == 6 * N * (4 * D + 16)
    assert kept.rounds[-1]["downlink_bytes"] == 6 * N * (4 * D + 8 * D)
    both = Quick(FZOOS, {"kind": "safeguard", "inner": TWO}, steps=6)
    assert both.rounds[-1]["uplink_bytes"] == 2 * N * (4 * D + 16 + 4 * 60)


@pytest.mark.parametrize("aggregator", [TWO, {"kind": "safeguard"}])
def test_a_round_of_two_exchanges_is_finished_and_the_reason_says_so(aggregator):
    client = {**DIFFERENCES, "method": "scaffold1" if aggregator is TWO else "fedzo"}
    odd, even = (Quick(client, aggregator, steps=steps) for steps in (3, 4))
    assert [row["step"] for row in odd.rounds] == [row["step"] for row in even.rounds] == [1, 2, 3, 4]
    assert odd.ended.reason == "4 server steps were made: 3 end within a round, which was finished"
    assert even.ended.reason == "4 server steps were made"


def test_wrong_pairs_say_what_to_use():
    with pytest.raises(ValueError, match="gradient_correction"):
        Quick({**DIFFERENCES, "method": "scaffold1"}, {"kind": "fedavg"})
    with pytest.raises(ValueError, match=r"aggregator: \{kind: scaffold\}"):
        Quick({**DIFFERENCES, "method": "scaffold2"}, {"kind": "fedavg"})
    for method in ("fedzo", "fedprox"):
        with pytest.raises(ValueError, match=rf"method: {method} makes no correction.*aggregator: \{{kind: fedavg\}}"):
            Quick({**DIFFERENCES, "method": method}, TWO)
    with pytest.raises(ValueError, match="spsa sends scalars, but aggregator fedavg takes update"):
        Quick(SPSA, {"kind": "fedavg"})
    no_values = r"sgd sends update, but aggregator safeguard takes update and values .*finite_difference\} or .*fzoos\}"
    with pytest.raises(ValueError, match=no_values):
        Quick({"kind": "sgd"}, {"kind": "safeguard"}, data=DIGITS)


@pytest.mark.parametrize("kind", ["spsa", "fedkseed", "finite_difference", "fzoos"])
@pytest.mark.parametrize("size", [0, -5])
def test_no_batch_is_smaller_than_one_example(kind, size):
    with pytest.raises(ConfigurationError) as refused:
        scenario({"kind": kind, "batch_size": size}, {"kind": "fedavg"}, data=DIGITS)
    assert [str(p) for p in refused.value.problems[0].path] == ["client", "batch_size"]
    assert refused.value.problems[0].message == f"must be >= 1 or full, got {size}"


def test_a_models_loss_is_a_black_box():
    trained = Quick({**DIFFERENCES, "directions": "rademacher", "count": 8, "batch_size": 32,
                     "optimizer": {"learning_rate": 0.03}}, {"kind": "fedavg"}, steps=2, data=DIGITS)  # fmt: skip
    assert trained.values[-1] < trained.parts.engine.evaluate(trained.start)["loss"]
    assert trained.rounds[-1]["queries"] == 2 * 6 * (1 + 3 * 9)


def test_losses_as_values_equal_the_engines():
    run = Quick(SPSA, COMFL, steps=1, data=DIGITS)
    engine = run.parts.engine
    points = torch.stack([run.start, run.params, run.start * 2])
    indices = torch.arange(10).view(2, 5)
    shared = engine.loss_values.means(points[None], indices, torch.tensor([5, 3]))
    assert torch.allclose(shared[0, 1], engine.example_losses(run.params[None], indices[:1])[0].mean())
    own = engine.loss_values.means(points.expand(2, -1, -1), indices, torch.tensor([5, 3]))
    assert torch.allclose(shared, own, atol=1e-6)
    assert torch.allclose(shared[1, 0], engine.example_losses(run.start[None], indices[1:, :3])[0].mean())
