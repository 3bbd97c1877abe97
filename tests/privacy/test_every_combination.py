"""Every mechanism with every aggregator: it runs and is charged, or is refused beforehand with a remedy."""

from __future__ import annotations

import math
from typing import Any

import pytest

import fedopt
from fedopt.budget import budget_of
from fedopt.components import components
from fedopt.problems import ConfigurationError
from fedopt.scenario import Scenario, from_mapping
from scenarios import mapping

STREAM: dict[str, Any] = {"sampling": {"kind": "uniform", "concurrency": 6}}
# What an aggregator needs besides its name, so that the pair and nothing else decides.
AGGREGATORS: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in components("fedopt.aggregators")},
    "async_fedavg": {"sampling": {"kind": "all"}},
    "ca2fl": STREAM,
    "decomfl": {"client": {"kind": "spsa"}},
    "delayed_nesterov": STREAM,
    "diff2": {"client": {"kind": "gradient_difference"}, "sampling": {"kind": "all"}},
    "fadas": {"aggregator": {"kind": "fadas", "staleness_limit": None}, **STREAM},
    "fedasync": {"aggregator": {"kind": "fedasync", "staleness": {"kind": "constant"}}, **STREAM},
    "fedbuff": {"aggregator": {"kind": "fedbuff", "buffer_size": 3, "staleness": {"kind": "constant"}}, **STREAM},
    "fedfix": {"aggregator": {"kind": "fedfix", "server_step_s": 1.0}, "sampling": {"kind": "all"}},
    "fedkseed": {"client": {"kind": "fedkseed"}},
    "fednova": {"aggregator": {"kind": "fednova", "tau_effective": 2.0}},
    "feedsign": {"client": {"kind": "spsa"}},
    "gradient_correction": {"client": {"kind": "finite_difference"}},
    "one_byte": {"client": {"kind": "spsa"}},
    "safeguard": {"aggregator": {"kind": "safeguard", "inner": {"kind": "fedavg"}}},
    "scaffold": {"client": {"kind": "scaffold", "lr": 0.1, "batch_size": 20, "epochs": 1}},
}
ONCE = {"max_participations": 1}
SHUFFLE = {"trust": "shuffle", "relation": "replace_one"}
DISTRIBUTED = {"trust": "distributed"}
LOCAL = {"trust": "local", "relation": "replace_one"}
MECHANISMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adaptive_gaussian": ({"noise_multiplier": 1.0}, {}),
    "banded_matrix": ({"noise_multiplier": 1.0, "bands": 2}, ONCE),
    "diff2": ({"noise_multiplier": 1.0}, {"unit": "example", "relation": "replace_one"}),
    "distributed_gaussian": ({"noise_multiplier": 1.0}, DISTRIBUTED),
    "dp_sgd": ({"noise_multiplier": 1.0}, {"unit": "example"}),
    "gaussian": ({"noise_multiplier": 1.0}, {}),
    "local_gaussian": ({"noise_multiplier": 1.0}, LOCAL),
    "local_laplace": ({"noise_multiplier": 1.0}, LOCAL),
    "shuffle_hemisphere": ({"local_epsilon": 2.0, "minimum_clients": 1}, SHUFFLE),
    "shuffle_vector_sum": ({"bits": 5000, "minimum_clients": 1}, SHUFFLE),
    "skellam": ({"noise_multiplier": 1.0}, DISTRIBUTED),
    "tree": ({"noise_multiplier": 1.0}, ONCE),
}
MEANS = {"accelerated_gradient", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fednova", "fedyogi", "minibatch_sgd"}
STREAMS = {"async_fedavg", "delayed_nesterov", "fadas", "fedasync", "fedbuff", "fedfix"}
SCALARS = {"decomfl", "feedsign"}
WHOLE = MEANS | STREAMS
# These weight replies, which noise in shares and anonymous messages do not allow.
ALIKE = WHOLE - {"async_fedavg", "fedasync", "fedfix", "fednova"}
SOUND: dict[str, set[str]] = {
    **{kind: WHOLE | SCALARS | {"scaffold"} for kind in ("adaptive_gaussian", "gaussian", "local_gaussian")},
    "local_laplace": WHOLE | SCALARS | {"scaffold"},
    "distributed_gaussian": ALIKE | SCALARS | {"scaffold"},
    "banded_matrix": WHOLE | {"scaffold"},
    "tree": WHOLE | {"scaffold"},
    "diff2": {"diff2"},
    "dp_sgd": WHOLE,
    **{kind: ALIKE for kind in ("shuffle_hemisphere", "shuffle_vector_sum", "skellam")},
}


def combined(mechanism: str, aggregator: str) -> Scenario:
    """A run of three steps on twelve clients with this pair.

    Raises:
        ConfigurationError: it is refused.
    """
    noise, privacy = MECHANISMS[mechanism]
    top = {"aggregator": {"kind": aggregator}, **AGGREGATORS[aggregator]}
    claimed = {"mechanism": {"kind": mechanism, **noise}, **privacy}
    if aggregator in STREAMS | {"ca2fl"}:
        claimed.setdefault("max_participations", 2)
    if mechanism == "dp_sgd":
        top["client"] = {"kind": "dp_sgd", "lr": 0.1, "sampling_probability": 0.2, "steps": 2}
    if mechanism == "diff2":
        top["data__public"] = ["num_examples"]
    top["run"] = {"server_steps": 3, "evaluate_every": 3}
    return from_mapping(mapping(privacy=claimed, devices={"compute": {"kind": "constant"}}, **top))


def test_no_mechanism_and_no_aggregator_is_forgotten():
    assert set(MECHANISMS) == set(components("fedopt.privacy.mechanisms")) == set(SOUND)
    assert set().union(*SOUND.values()) <= set(AGGREGATORS)


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_pairs_are_accepted_or_refused_with_a_remedy(mechanism):
    accepted = set()
    for aggregator in AGGREGATORS:
        try:
            combined(mechanism, aggregator)
            accepted.add(aggregator)
        except ConfigurationError as refusal:
            for problem in refusal.problems:
                assert any(word in problem.message for word in ("use ", "set ", "leave ", "declare")), problem
    assert accepted == SOUND[mechanism]


@pytest.mark.slow
@pytest.mark.parametrize(("mechanism", "aggregator"), [(m, a) for m in sorted(SOUND) for a in sorted(SOUND[m])])
def test_accepted_pairs_run_and_are_charged_no_more_than_was_planned(mechanism, aggregator, tmp_path):
    chosen = combined(mechanism, aggregator)
    run = fedopt.simulate(chosen, out=tmp_path)
    assert run.summary["steps"] == 3 or "max_participations" in run.summary["reason"]
    assert 0 < run.summary["epsilon"] < math.inf
    size = sum(value.numel() for value in run.parameters().values())
    assert run.summary["epsilon"] <= budget_of(chosen, targets=(), dimension=size)["epsilon"] * (1 + 1e-6)
