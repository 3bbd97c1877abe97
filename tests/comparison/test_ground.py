"""Epsilons on common ground: accounted again where a proof exists, with the reason where none does."""

from __future__ import annotations

from typing import Any

import pytest

from fedopt.comparison.ground import claim_of, why_apart
from fedopt.components import component
from fedopt.privacy.events import GaussianEvent, LaplaceEvent, PoissonSampled, Repeated


def document(
    event: dict[str, Any], count: int, relation: str, epsilon: float | None = 1.0, **more: Any
) -> dict[str, Any]:
    return {
        "epsilon": epsilon,
        "delta": 1e-5,
        "epsilon_accountant": "pld",
        "unit": "client",
        "relation": relation,
        "trust": "central",
        "hypothetical_population": None,
        "charged": [[{"event": event, "count": count}]],
    } | more


GAUSSIAN = document(GaussianEvent(4.0).to_dict(), 5, "zero_out_one")


def test_replacing_one_doubles_the_sensitivity_of_gaussian_noise() -> None:
    found = claim_of(GAUSSIAN, "replace_one", None, False)
    judge: Any = component("fedopt.privacy.accountants", "pld")()
    half = judge.epsilon([Repeated(GaussianEvent(2.0), 5)], 1e-5, "zero_out_one")
    assert found.epsilon == pytest.approx(half, rel=1e-6)
    assert found.ground.relation == "replace_one" and "zero_out_one at delta 1e-05 gave epsilon 1" in found.remark


def test_another_delta_gives_another_epsilon() -> None:
    easier, own = claim_of(GAUSSIAN, None, 1e-2, False), claim_of(GAUSSIAN, None, 1e-5, False)
    assert own.remark == "" and own.epsilon == 1.0, "nothing to account again: the run's own number"
    assert easier.ground.delta == 1e-2 and easier.epsilon is not None
    judge: Any = component("fedopt.privacy.accountants", "pld")()
    assert easier.epsilon == pytest.approx(judge.epsilon([Repeated(GaussianEvent(4.0), 5)], 1e-2, "zero_out_one"))


def test_without_a_proof_the_own_claim_stays_and_says_why() -> None:
    sampled = document(PoissonSampled(0.1, LaplaceEvent(1.0)).to_dict(), 1, "zero_out_one")
    found = claim_of(sampled, "replace_one", None, False)
    assert found.ground.relation == "zero_out_one" and found.epsilon == 1.0
    assert "not accounted under replace_one" in found.remark and "Gaussian noise only" in found.remark


def test_a_client_with_one_example_is_an_example() -> None:
    assert claim_of(GAUSSIAN, None, None, True).ground.unit == "example"
    assert claim_of(GAUSSIAN, None, None, False).ground.unit == "client"


def test_an_infinite_epsilon_is_none() -> None:
    assert (
        claim_of(document(GAUSSIAN["charged"][0][0]["event"], 5, "zero_out_one", None), None, None, False).epsilon
        is None
    )


def test_why_apart_names_what_differs_and_nothing_else() -> None:
    first = claim_of(GAUSSIAN, None, None, False)
    second = claim_of(GAUSSIAN, "replace_one", None, False)
    assert why_apart([first.ground, first.ground], ["central", "central"]) == []
    (differing,) = why_apart([first.ground, second.ground], ["central", "central"])
    assert "differ in relation:" in differing and "separate panels" in differing and "replace_one" in differing
    (trusting,) = why_apart([first.ground], ["central", "local"])
    assert "central, local" in trusting and "line styles" in trusting
    supposed = claim_of(GAUSSIAN | {"hypothetical_population": 10**6}, None, None, False)
    assert "HYPOTHETICAL population 1000000" in supposed.ground.label
    assert "supposed population" in why_apart([first.ground, supposed.ground], ["central"])[0]
