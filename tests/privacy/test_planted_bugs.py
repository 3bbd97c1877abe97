"""Every planted bug is caught by its named check on at least 19 of 20 seeds; clean code alarms on at most 1 of 20."""

from __future__ import annotations

import copy
from functools import lru_cache

import privacy_bugs
import pytest
from audited_scenarios import ADAM, BUFFERED, EXAMPLES, FIXED, ROUNDS

from fedopt.auditing.checks import all_checks, run_checks
from fedopt.scenario import from_mapping

BUGS = {
    "no_clipping": (ROUNDS, "clipping"),
    "half_the_noise": (ROUNDS, "noise_scale"),
    "half_the_noise_later": (ROUNDS, "noise_scale"),
    "half_the_noise_openly": (ROUNDS, "noise_scale"),
    "no_noise_later": (ROUNDS, "noise_scale"),
    "noise_after_the_optimiser": (ADAM, "noise_before_optimiser"),
    "same_noise_reused": (ROUNDS, "fresh_noise"),
    "weights_by_num_examples": (ROUNDS, "sensitivity"),
    "double_contribution": (BUFFERED, "one_contribution"),
    "client_rate_times_record_rate": (EXAMPLES, "record_rate"),
    "amplification_for_a_fixed_schedule": (FIXED, "poisson_cohorts"),
    "noise_from_the_public_seed": (ROUNDS, "secret_noise"),
}
CLEAN = {"rounds": ROUNDS, "buffered": BUFFERED, "examples": EXAMPLES, "fixed": FIXED, "adam": ADAM}


@lru_cache(maxsize=4)
def _data(kind: str, clients: int, alpha: float | None, seed: int):
    body = next(b for b in (ROUNDS, BUFFERED) if b["data"]["clients"] == clients)
    return from_mapping({**copy.deepcopy(body), "seed": seed}).data.load(seed)


def _loaded(body, seed):
    data = body["data"]
    return _data(data["kind"], data["clients"], data.get("partition", {}).get("alpha"), seed)


def caught(bug: str, seed: int) -> bool:
    """Whether the bug's own check fails."""
    body, check = BUGS[bug]
    scenario = from_mapping({**copy.deepcopy(body), "seed": seed})
    build = getattr(privacy_bugs, bug)
    (result,) = run_checks(scenario, build, seed=1000 + seed, names=[check], data=_loaded(body, seed))
    return result.passed is False


def alarms(kind: str, seed: int) -> list[str]:
    """Checks that fail on clean code."""
    body = CLEAN[kind]
    scenario = from_mapping({**copy.deepcopy(body), "seed": seed})
    found = run_checks(scenario, seed=1000 + seed, data=_loaded(body, seed))
    applied = [result.name for result in found if result.passed is not None]
    assert len(applied) >= 5, f"only {applied} apply"
    return [result.name for result in found if result.passed is False]


@pytest.mark.parametrize("bug", BUGS)
def test_the_named_check_catches_the_bug(bug):
    assert all(caught(bug, seed) for seed in range(2))


@pytest.mark.parametrize("kind", CLEAN)
def test_clean_code_raises_no_alarm(kind):
    assert alarms(kind, 0) == []


def test_a_matrix_event_is_compared_in_its_own_unit():
    """The ledger holds multiplier times sensitivity of the encoder; a release says the multiplier."""
    apart = {"kind": "separated", "cohort_size": 5, "min_separation": 4}
    body = {**copy.deepcopy(FIXED), "sampling": apart}
    body["privacy"]["mechanism"] |= {"kind": "banded_matrix"}
    (result,) = run_checks(from_mapping(body), names=["noise_scale"])
    assert result.passed, result.detail


def test_two_kinds_of_releases_are_held_to_the_charge_of_the_costlier():
    """DIFF2's differences may have less noise than its restarts, with which a run begins."""
    body = copy.deepcopy(EXAMPLES) | {
        "data": {"kind": "digits", "clients": 6, "public": ["num_examples"]},
        "client": {"kind": "gradient_difference"},
        "sampling": {"kind": "all"},
        "aggregator": {"kind": "diff2", "restart_every": 2},
    }
    noise = {"noise_multiplier": 3.0, "difference_noise_multiplier": 1.5}
    body["privacy"] |= {"relation": "replace_one", "mechanism": {"kind": "diff2", **noise}}
    (result,) = run_checks(from_mapping(body), names=["noise_scale"])
    assert result.passed, result.detail


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_the_named_check_catches_the_bug_on_19_of_20_seeds(bug):
    assert sum(caught(bug, seed) for seed in range(20)) >= 19


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLEAN)
def test_clean_code_alarms_on_at_most_1_of_20_seeds(kind):
    assert sum(bool(alarms(kind, seed)) for seed in range(20)) <= 1


def test_every_check_is_somebodys():
    """No bug is left to a check that does not exist, and every check has a bug that it is for."""
    assert {check for _, check in BUGS.values()} == set(all_checks())


def test_unknown_checks_are_refused():
    with pytest.raises(ValueError, match="unknown check 'cliping'; known: clipping, "):
        run_checks(from_mapping(copy.deepcopy(ROUNDS)), names=["cliping"])
