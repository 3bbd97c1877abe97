"""Calibration, the stop at max_epsilon, the columns and privacy.json, by whole runs on small data."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import fedopt
from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.events import Repeated, from_dict
from fedopt.privacy.ledger import recompute, trade_off_of
from fedopt.privacy.plan import plan
from fedopt.privacy.trade_off import trade_off
from fedopt.types import Public
from scenarios import small


def private(mechanism: dict[str, Any], changes: dict[str, Any] | None = None, **top: Any):
    return small(privacy={"mechanism": mechanism, "delta": 1e-5, **(changes or {})}, **top)


def public_of(scenario, **facts):
    clients = scenario.data.clients
    cohort = scenario.sampling.expected_cohort(clients)
    return Public(clients, cohort, is_private=True, horizon=scenario.run.server_steps, **facts)


@pytest.mark.parametrize(
    "mechanism, changes, top",
    [
        ({"kind": "gaussian"}, {}, {}),
        ({"kind": "gaussian"}, {"accountant": "rdp"}, {}),
        ({"kind": "gaussian"}, {"relation": "replace_one"}, {}),
        ({"kind": "gaussian"}, {"relation": "add_or_remove_one"}, {"sampling": {"kind": "poisson", "cohort_size": 4}}),
        ({"kind": "gaussian"}, {"max_participations": 2}, {}),
        ({"kind": "adaptive_gaussian"}, {}, {}),
        ({"kind": "local_gaussian"}, {"trust": "local", "relation": "replace_one"}, {}),
        ({"kind": "tree"}, {"max_participations": 1}, {}),
        ({"kind": "banded_matrix"}, {"max_participations": 1}, {}),
        ({"kind": "shuffle_hemisphere", "minimum_clients": 4}, {"trust": "shuffle"}, {}),
        (
            {"kind": "dp_sgd"},
            {"unit": "example"},
            {"client": {"kind": "dp_sgd", "steps": 3, "sampling_probability": 0.1}},
        ),
    ],
)
def test_the_planned_run_meets_its_target_and_not_by_much_less(mechanism, changes, top):
    scenario = private(mechanism, {"target_epsilon": 4.0, **changes}, **top)
    made = plan(scenario, public_of(scenario, dimension=650))
    spent = max(made.accounting.spending.exact(profile) for profile in made.accounting.planned_profiles())
    assert 4.0 * 0.995 <= spent <= 4.0


def test_noise_for_twice_the_sensitivity_is_twice_as_large():
    zero_out = private({"kind": "gaussian"}, {"target_epsilon": 4.0})
    replace = private({"kind": "gaussian"}, {"target_epsilon": 4.0, "relation": "replace_one"})
    ratio = _level(replace) / _level(zero_out)
    assert ratio == pytest.approx(2.0, rel=2e-3)


def _level(scenario):
    return plan(scenario, public_of(scenario)).mechanism.noise_level()


def test_sampling_clients_never_amplifies_examples():
    scenario = private(
        {"kind": "dp_sgd", "noise_multiplier": 1.0},
        {"unit": "example"},
        client={"kind": "dp_sgd", "steps": 3, "sampling_probability": 0.1},
        sampling={"kind": "poisson", "probability": 0.25},
    )
    ((event, count),) = plan(scenario, public_of(scenario)).accounting.planned_profiles()[0]
    assert event.probability == 0.1 and count == 6 * 3


def test_a_hypothetical_population_lowers_the_probability_and_is_said():
    scenario = private(
        {"kind": "gaussian", "noise_multiplier": 1.0},
        {"relation": "add_or_remove_one", "hypothetical_population": 1200},
        sampling={"kind": "poisson", "cohort_size": 3},
    )
    made = plan(scenario, public_of(scenario))
    assert made.accounting.probability == pytest.approx(3 / 1200)
    assert any("hypothetical population of 1200" in warning for warning in made.warnings)


def test_a_run_reports_what_it_spent_and_an_outsider_finds_the_same(tmp_path):
    scenario = private({"kind": "gaussian"}, {"target_epsilon": 5.0, "max_participations": 3})
    run = fedopt.simulate(scenario, out=tmp_path)
    epsilons = run.rounds["epsilon"].tolist()
    assert epsilons == sorted(epsilons) and epsilons[-1] <= 5.0
    assert set(run.rounds["epsilon_accountant"]) == {"pld"} and set(run.rounds["delta"]) == {1e-5}
    document = json.loads((run.directory / "privacy.json").read_text())
    assert (document["unit"], document["relation"], document["trust"]) == ("client", "zero_out_one", "central")
    counts = run.updates.query("status == 'admitted'").groupby("client_id").size()
    assert document["charged"][0][0]["count"] == counts.max() <= 3
    found = recompute(run.directory / "privacy.json")
    assert found.agrees and found.epsilon == pytest.approx(run.summary["epsilon"])


def test_a_run_stops_before_it_exceeds_max_epsilon(tmp_path):
    scenario = private({"kind": "gaussian", "noise_multiplier": 1.0}, {"max_epsilon": 7.0}, sampling={"kind": "all"})
    run = fedopt.simulate(scenario, out=tmp_path)
    assert run.summary["status"] == "stopped" and "would exceed max_epsilon = 7" in run.summary["reason"]
    assert run.summary["epsilon"] <= 7.0
    exact = plan(scenario, public_of(scenario)).accounting.spending
    event = run_event(run)
    assert exact.exact(((event, run.summary["steps"]),)) <= 7.0 < exact.exact(((event, run.summary["steps"] + 1),))


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_noise_is_calibrated_and_stopped_by_one_accountant(accountant, tmp_path):
    """Trap 7: a run whose noise meets its limit makes all its steps, by either accountant."""
    scenario = private(
        {"kind": "gaussian"},
        {"relation": "add_or_remove_one", "target_epsilon": 3.0, "max_epsilon": 3.0, "accountant": accountant},
        sampling={"kind": "poisson", "cohort_size": 4},
    )
    run = fedopt.simulate(scenario, out=tmp_path)
    assert run.summary["status"] == "finished" and run.summary["steps"] == 6
    assert set(run.rounds["epsilon_accountant"]) == {accountant} and 2.99 <= run.summary["epsilon"] <= 3.0
    document = json.loads((run.directory / "privacy.json").read_text())  # the attacker's limits are those of the PLD
    charged = [Repeated(event, count) for event, count in _charged(document)]
    limits = trade_off(charged, "add_or_remove_one", Pld())
    assert document["tradeoff"]["advantage"] == pytest.approx(limits.advantage)
    assert document["tradeoff"]["true_positive_rate_at_1_percent"] == pytest.approx(limits.true_positive_rate)
    assert trade_off_of(document) == limits


DIFF2: dict[str, Any] = {
    "client": {"kind": "gradient_difference"},
    "sampling": {"kind": "all"},
    "aggregator": {"kind": "diff2", "restart_every": 4},
    "data": {"kind": "digits", "clients": 12, "public": ["num_examples"]},
}


@pytest.mark.parametrize("noise", ["central", "local"])
def test_losses_that_cost_more_than_was_planned_stop_the_run_at_its_target(noise, tmp_path):
    """DIFF2 restarts after a loss, and restarts are dearer: the noise was calibrated for two in eight rounds."""
    privacy = {"unit": "example", "trust": noise, "relation": "replace_one", "target_epsilon": 4.0}
    run = {"server_steps": 8, "evaluate_every": 8}
    kept = fedopt.simulate(private({"kind": "diff2", "noise": noise}, privacy, **DIFF2, run=run), out=tmp_path)
    assert kept.summary["status"] == "finished" and 3.99 <= kept.summary["epsilon"] <= 4.0
    lossy = private({"kind": "diff2", "noise": noise}, privacy, **DIFF2, run=run, devices={"dropout": 0.3})
    lost = fedopt.simulate(lossy, out=tmp_path)
    assert (lost.rounds.lost > 0).all() and lost.summary["status"] == "stopped"
    assert "would exceed target_epsilon = 4" in lost.summary["reason"] and 2.0 < lost.summary["epsilon"] <= 4.0


SEPARATED = {"kind": "separated", "cohort_size": 3, "min_separation": 4}


@pytest.mark.parametrize(
    "mechanism, changes, top",
    [
        ({"kind": "tree", "restart_every": 4}, {}, {"sampling": SEPARATED}),
        ({"kind": "banded_matrix", "bands": 2}, {}, {"sampling": SEPARATED}),
        ({"kind": "diff2"}, {"unit": "example", "relation": "replace_one"}, DIFF2),
        ({"kind": "shuffle_hemisphere", "minimum_clients": 3}, {"trust": "shuffle"}, {"sampling": SEPARATED}),
        (
            {"kind": "local_gaussian"},
            {"trust": "local", "relation": "replace_one"},
            {"sampling": SEPARATED},
        ),
        (
            {"kind": "dp_sgd"},
            {"unit": "example", "max_participations": 2},
            {
                "client": {"kind": "dp_sgd", "steps": 2, "sampling_probability": 0.1},
                "sampling": {"kind": "uniform", "concurrency": 6},
                "aggregator": {"kind": "fedbuff", "buffer_size": 3},
                "devices": {"compute": {"kind": "constant"}},
            },
        ),
    ],
    ids=lambda value: value.get("kind", "") if isinstance(value, dict) else None,
)
def test_a_limit_that_the_plan_meets_stops_no_run(mechanism, changes, top, tmp_path):
    """Nobody can take part oftener than the schedule allows, so the stop must not fear it."""
    privacy = {"target_epsilon": 4.0, "max_epsilon": 4.0, **changes}
    run = fedopt.simulate(private(mechanism, privacy, **{"run": {"server_steps": 8}, **top}), out=tmp_path)
    assert run.summary["status"] == "finished", run.summary["reason"]
    assert run.summary["steps"] == 8 and run.summary["epsilon"] <= 4.0


def test_the_column_of_client_ledgers_ends_at_the_exact_epsilon(tmp_path):
    scenario = private(
        {"kind": "dp_sgd", "noise_multiplier": 1.0},
        {"unit": "example"},
        client={"kind": "dp_sgd", "steps": 40, "batch_size": 5},
        data={"kind": "digits", "clients": 12, "public": ["num_examples"]},
        sampling={"kind": "all"},
    )
    run = fedopt.simulate(scenario, out=tmp_path)
    assert run.rounds.epsilon.iloc[-1] == pytest.approx(run.summary["epsilon"], rel=1e-9)
    assert run.rounds.epsilon.is_monotonic_increasing


def test_a_client_without_examples_has_nothing_to_pay_for():
    """Its batches would be 'all of its examples', which no other client's are."""
    scenario = private(
        {"kind": "dp_sgd", "noise_multiplier": 1.0},
        {"unit": "example"},
        client={"kind": "dp_sgd", "steps": 2, "batch_size": 10},
        data={"kind": "digits", "clients": 3, "public": ["num_examples"]},
        sampling={"kind": "all"},
    )
    ledgers = {
        n: plan(scenario, public_of(scenario, num_examples=np.array([100, n, 200]))).accounting.planned_profiles()
        for n in (0, 50)
    }
    rates = {n: [event.probability for profile in found for event, _ in profile] for n, found in ledgers.items()}
    assert rates == {0: [0.1], 50: [0.2]}


@pytest.mark.parametrize(("steps", "sizes"), [(0, [100, 50]), (3, [0, 0])])
def test_where_nobody_makes_a_step_any_noise_meets_the_target(steps, sizes):
    scenario = private(
        {"kind": "dp_sgd"},
        {"unit": "example", "target_epsilon": 1.0},
        client={"kind": "dp_sgd", "epochs": 1, "batch_size": 10},
        data={"kind": "digits", "clients": 2, "public": ["num_examples"]},
        sampling={"kind": "all"},
        run={"server_steps": steps},
    )
    found = plan(scenario, public_of(scenario, num_examples=np.array(sizes)))
    assert found.mechanism.noise_level() > 0 and found.accounting.exact_planned() == 0


def test_infinite_ledgers_are_valid_json_and_not_left_out(tmp_path):
    scenario = private(
        {"kind": "dp_sgd", "noise_multiplier": 0.0},
        {"unit": "example"},
        client={"kind": "dp_sgd", "steps": 1, "sampling_probability": 0.5},
        data={"kind": "digits", "clients": 2},
        sampling={"kind": "all"},
        run={"server_steps": 1},
    )
    run = fedopt.simulate(scenario, out=tmp_path)
    body = json.loads((run.directory / "privacy.json").read_text(), parse_constant=pytest.fail)
    assert [client["epsilon"] for client in body["clients"]] == [None, None] and body["epsilon"] is None
    assert "2 have an infinite epsilon" in run.report.read_text()


def test_rejected_replies_count_towards_the_participation_limit(tmp_path):
    """Under local trust the server has seen a reply it then rejects: it is paid for, and used up."""
    scenario = private(
        {"kind": "local_gaussian", "noise_multiplier": 1.0},
        {"trust": "local", "relation": "replace_one", "max_participations": 2},
        sampling={"kind": "uniform", "concurrency": 6},
        aggregator={"kind": "fedbuff", "buffer_size": 2, "max_staleness": 0},
        run={"server_steps": 20, "evaluate_every": 20},
        data={"kind": "digits", "clients": 12, "public": ["num_examples"]},
    )
    run = fedopt.simulate(scenario, out=tmp_path)
    seen = run.updates[run.updates.status.isin(["admitted", "rejected"])]
    assert (seen.status == "rejected").any()
    assert seen.groupby("client_id").size().max() == 2  # not two admitted ones and rejected ones besides
    document = json.loads((run.directory / "privacy.json").read_text())
    charges = sum(release["count"] for release in document["releases"])
    assert charges == 24  # everybody twice; a last reply waits in the buffer, but has been seen
    assert len(seen) <= charges
    assert document["charged"][0][0]["count"] == 2
    assert run.summary["status"] == "stopped" and "max_participations = 2" in run.summary["reason"]


def _charged(document):
    return [(from_dict(item["event"]), item["count"]) for item in document["charged"][0]]


def run_event(run):
    return from_dict(json.loads((run.directory / "privacy.json").read_text())["releases"][0]["events"][0])


def test_no_noise_and_no_clipping_is_plain_averaging(tmp_path):
    top = {"sampling": {"kind": "all"}}
    plain = fedopt.simulate(small(**top), out=tmp_path)
    quiet = private({"kind": "gaussian", "noise_multiplier": 0.0, "clipping_norm": math.inf}, **top)
    private_run = fedopt.simulate(quiet, out=tmp_path)
    assert plain.summary["model_sha256"] == private_run.summary["model_sha256"]
    assert private_run.summary["epsilon"] is None


@pytest.mark.parametrize("most", [20, 0])  # ledgers as they are, and on a grid
def test_client_ledgers_report_the_largest_client(tmp_path, monkeypatch, most):
    monkeypatch.setattr("fedopt.privacy.accounting.MOST_LEDGERS", most)
    scenario = private(
        {"kind": "dp_sgd", "noise_multiplier": 2.0},
        {"unit": "example"},
        client={"kind": "dp_sgd", "steps": 2, "batch_size": 20},
        data={"kind": "digits", "clients": 12, "public": ["num_examples"]},
        run={"server_steps": 2, "evaluate_every": 2},
    )
    run = fedopt.simulate(scenario, out=tmp_path)
    document = json.loads((run.directory / "privacy.json").read_text())
    assert all(one[0]["event"]["kind"] == "poisson_sampled" for one in document["charged"])
    rates = [one[0]["event"]["probability"] for one in document["charged"]]
    assert max(c["epsilon"] for c in document["clients"]) == pytest.approx(document["epsilon"], rel=1e-9)
    assert recompute(document).agrees
    said = document["sampling"]
    assert (said["kind"], said["amplification"]) == ("batches of examples in the clients", "poisson")
    assert said["sampling_probability"] == max(rates) < 1
    page = run.report.read_text(encoding="utf-8")
    assert "No release was recorded" not in page and "clients keeps its own ledger" in page
    assert "sampling batches of examples in the clients (amplification poisson, probability" in page
