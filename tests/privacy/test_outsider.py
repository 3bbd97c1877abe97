"""An outsider recomputes epsilon from ``privacy.json`` alone: dp-accounting and formulas, none of our accounting."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.stats import binom

import fedopt
from fedopt.scenario import from_mapping
from scenarios import mapping

ORDERS = list(range(2, 257))


def library_event(event: dict[str, Any]) -> dp_accounting.DpEvent:
    """The event as dp-accounting writes it."""
    match event["kind"]:
        case "gaussian":
            return dp_accounting.GaussianDpEvent(event["noise_multiplier"])
        case "tree":
            return dp_accounting.GaussianDpEvent(event["noise_multiplier"] / math.sqrt(event["height"]))
        case "matrix":
            return dp_accounting.GaussianDpEvent(event["noise_multiplier"] / event["sensitivity"])
        case "poisson_sampled":
            return dp_accounting.PoissonSampledDpEvent(event["probability"], library_event(event["event"]))
    raise AssertionError(f"not an event of dp-accounting: {event}")


def by_the_library(ledger: list[dict[str, Any]], delta: float, relation: str) -> float:
    name = "REPLACE_ONE" if relation == "replace_one" else "ADD_OR_REMOVE_ONE"
    accountant = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation[name], 1e-3)
    for item in ledger:
        accountant.compose(library_event(item["event"]), item["count"])
    return float(accountant.get_epsilon(delta))


def of_shuffles(ledger: list[dict[str, Any]], delta: float, relation: str) -> float:
    """The clones pair written out: C ~ Bin(n-1, e^-eps0), A ~ Bin(C, 1/2), one more by a biased coin."""
    ((event, count),) = [(item["event"], item["count"]) for item in ledger]
    n, local = event["clients"], event["local_epsilon"]
    share = math.exp(local) / (1 + math.exp(local))
    pair: list[dict[tuple[int, int], float]] = [{}, {}]
    for c, first in itertools.product(range(n), (1, 0)):
        for a in range(c + 1):
            mass = binom.pmf(c, n - 1, math.exp(-local)) * binom.pmf(a, c, 0.5)
            for law, kept in zip(pair, (share, 1 - share), strict=True):
                key = (a + first, c - a + 1 - first)
                law[key] = law.get(key, 0.0) + mass * (kept if first else 1 - kept)
    lower, upper = ({key: math.log(mass) for key, mass in law.items()} for law in reversed(pair))
    made = pld.from_two_probability_mass_functions(lower, upper, value_discretization_interval=1e-3)
    return float(made.self_compose(count).get_epsilon_for_delta(delta))


def of_skellam(ledger: list[dict[str, Any]], delta: float, relation: str) -> float:
    """Agarwal et al. 2021, Corollary 4.1, at integer orders."""
    factor, total = 2 if relation == "replace_one" else 1, [0.0] * len(ORDERS)
    for item in ledger:
        e = item["event"]
        l1, l2, s, mu = factor * e["l1"], factor * e["l2"], e["scale"], e["variance"]
        for i, a in enumerate(ORDERS):
            extra = min(((2 * a - 1) * s * l2**2 + 6 * l1) / (4 * s**3 * mu**2), 3 * l1 / (2 * s * mu))
            total[i] += item["count"] * (a * l2**2 / (2 * mu) + extra)
    return float(dp_accounting.rdp.compute_epsilon(ORDERS, total, delta)[0])


EXAMPLES: dict[str, Any] = {"client": {"kind": "dp_sgd", "lr": 0.1, "batch_size": 20, "steps": 2}}
DIFF2: dict[str, Any] = {
    "client": {"kind": "gradient_difference"},
    "sampling": {"kind": "all"},
    "aggregator": {"kind": "diff2", "restart_every": 2},
}
PUBLIC: dict[str, Any] = {"data__public": ["num_examples"]}
SEPARATED: dict[str, Any] = {"sampling": {"kind": "separated", "cohort_size": 3, "min_separation": 2}}
SHUFFLE = {"trust": "shuffle", "relation": "replace_one"}
CASES = {
    "fixed cohorts": ({"kind": "gaussian"}, {}, {}, by_the_library),
    "fixed cohorts, replace-one": ({"kind": "gaussian"}, {"relation": "replace_one"}, {}, by_the_library),
    "poisson cohorts": (
        {"kind": "gaussian"},
        {"relation": "add_or_remove_one"},
        {"sampling": {"kind": "poisson", "cohort_size": 4}},
        by_the_library,
    ),
    "dp_sgd": ({"kind": "dp_sgd"}, {"unit": "example"}, {**EXAMPLES, **PUBLIC}, by_the_library),
    "diff2": ({"kind": "diff2"}, {"unit": "example", "relation": "replace_one"}, {**DIFF2, **PUBLIC}, by_the_library),
    "trees": ({"kind": "tree", "restart_every": 2}, {}, SEPARATED, by_the_library),
    "bands": ({"kind": "banded_matrix", "bands": 2}, {}, SEPARATED, by_the_library),
    "local": ({"kind": "local_gaussian"}, {"trust": "local", "relation": "replace_one"}, {}, by_the_library),
    "shuffle": ({"kind": "shuffle_hemisphere", "minimum_clients": 4}, SHUFFLE, {}, of_shuffles),
    "skellam": ({"kind": "skellam", "minimum_survivors": 4}, {"trust": "distributed"}, {}, of_skellam),
}


@pytest.mark.parametrize("case", CASES)
def test_an_outsider_finds_the_epsilon_of_the_file(case, tmp_path):
    mechanism, privacy, top, recompute = CASES[case]
    body = mapping(privacy={"mechanism": mechanism, "target_epsilon": 4.0, "delta": 1e-4, **privacy}, **top)
    run = fedopt.simulate(from_mapping(body), out=tmp_path)
    document = json.loads((run.directory / "privacy.json").read_text())
    found = [recompute(ledger, document["delta"], document["relation"]) for ledger in document["charged"]]
    assert max(found) == pytest.approx(document["epsilon"], rel=5e-3)
    assert document["epsilon"] <= 4.0
    assert {"unit", "relation", "trust", "sampling", "epsilon_accountant", "assumptions"} <= set(document)


def test_an_outsider_notices_a_false_claim(tmp_path):
    """The check above can fail: half the noise in the ledger is another epsilon."""
    ledger = [{"event": {"kind": "gaussian", "noise_multiplier": 4.0}, "count": 3}]
    quiet = [{"event": {"kind": "gaussian", "noise_multiplier": 2.0}, "count": 3}]
    assert by_the_library(quiet, 1e-4, "zero_out_one") > 1.8 * by_the_library(ledger, 1e-4, "zero_out_one")
