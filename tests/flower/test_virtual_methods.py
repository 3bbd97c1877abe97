"""Every family of methods and mechanisms over Flower's grid: the simulated model to the bit, the simulated ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from virtual_deployment import deploy, scenario, taking

from fedopt.api import Run, simulate
from fedopt.flower.rules import DeploymentRefused
from fedopt.scenario import Scenario, load

ZEROTH_ORDER = Path("scenarios/zeroth_order")
OF_MANY = ("decomfl", "fedkseed", "feedsign", "forward-gradient")
SYNCHRONOUS = (*OF_MANY, "fedzo", "fzoos", "non-differentiable-metric")
SHORT = {"run.server_steps": 2, "run.evaluate_every": 1, "engine.device": "cpu"}
CENTRAL = {"unit": "client", "trust": "central", "relation": "zero_out_one", "delta": 1e-5}
LOCAL = {"unit": "client", "trust": "local", "relation": "replace_one", "delta": 1e-5}
EXAMPLE = {"unit": "example", "relation": "replace_one", "delta": 1e-5}
SHUFFLE = {"unit": "client", "trust": "shuffle", "relation": "replace_one", "delta": 1e-3}
ONE_STEP = {"kind": "sgd", "lr": 1.0, "batch_size": "full", "steps": 1}
DP_SGD = {"kind": "dp_sgd", "lr": 0.1, "batch_size": 8, "steps": 4, "sampling_probability": 0.05}


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_zeroth_order_scenario_gives_the_simulated_model_and_bytes(name: str, tmp_path: Path) -> None:
    """Up, every byte that is counted travels, and no other. Down, clients of Flower get the model: they keep none."""
    fewer = {"data.clients": 4, "sampling": {"kind": "fixed", "cohort_size": 3}} if name in OF_MANY else {}
    plain = {"aggregator.pro": False} if name == "fedkseed" else {}  # Pro sends its three tables of K numbers in full
    chosen = load(ZEROTH_ORDER / f"{name}.yaml", {**SHORT, **fewer, **plain})
    summary = deploy(chosen, tmp_path)
    simulated = simulate(chosen, tmp_path / "simulated").summary
    for fact in ("model_sha256", "uplink_bytes", "queries", "status", "warnings"):
        assert summary[fact] == simulated[fact], fact


def test_a_check_of_the_safeguard_travels_as_counted(tmp_path: Path) -> None:
    chosen = load(ZEROTH_ORDER / "fedzo.yaml", {**SHORT, "run.server_steps": 4, "aggregator": {"kind": "safeguard"}})
    summary, simulated = deploy(chosen, tmp_path), simulate(chosen, tmp_path / "simulated").summary
    for fact in ("model_sha256", "uplink_bytes", "queries"):
        assert summary[fact] == simulated[fact], fact


def test_a_rejected_reply_leaves_its_client_as_it_was(tmp_path: Path) -> None:
    """A client of FZooS is used after a rejection: it goes on from its last used reply, as in the simulation."""
    chosen = load(
        ZEROTH_ORDER / "fzoos.yaml",
        {"run.server_steps": 12, "run.evaluate_every": 12, "engine.device": "cpu", "data.clients": 3,
         "data.dimension": 6, "client.local_steps": 2, "sampling": {"kind": "uniform", "concurrency": 3},
         "aggregator": {"kind": "fedbuff", "buffer_size": 1, "max_staleness": 1},
         "devices": taking(tmp_path, 1.0, 1.75, 2.25)},
    )  # fmt: skip
    summary = deploy(chosen, tmp_path)
    simulated = simulate(chosen, tmp_path / "simulated")
    assert summary["model_sha256"] == simulated.summary["model_sha256"]
    statuses = simulated.updates.query("client_id == 1").status.tolist()
    assert statuses.index("rejected") < len(statuses) - 1 - statuses[::-1].index("admitted")
    assert summary["queries"] == simulated.summary["queries"]


def private(privacy: dict[str, Any], mechanism: dict[str, Any], clients: int = 3, **changes: Any) -> Scenario:
    return scenario(clients, privacy={**privacy, "mechanism": mechanism}, **changes)


CASES = {
    "gaussian": private(CENTRAL, {"kind": "gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0}),
    "adaptive_gaussian": private(CENTRAL, {"kind": "adaptive_gaussian", "noise_multiplier": 2.0}),
    "tree": private(
        {**CENTRAL, "max_participations": 1},
        {"kind": "tree", "clipping_norm": 0.5, "noise_multiplier": 1.0},
        6,
        sampling={"kind": "fixed", "cohort_size": 2},
    ),
    "banded_matrix": private(
        {**CENTRAL, "max_participations": 1},
        {"kind": "banded_matrix", "clipping_norm": 0.5, "noise_multiplier": 1.0, "bands": 2},
        6,
        sampling={"kind": "fixed", "cohort_size": 2},
    ),
    "local_gaussian": private(LOCAL, {"kind": "local_gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0}),
    "local_laplace": private(LOCAL, {"kind": "local_laplace", "clipping_norm": 0.5, "noise_multiplier": 1.0}),
    "dp_sgd": private(
        EXAMPLE | {"relation": "zero_out_one"},
        {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 1.0},
        client=DP_SGD,
    ),
    "dp_spsa": private(
        EXAMPLE | {"relation": "zero_out_one"},
        {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 1.0},
        client={"kind": "dp_spsa", "sampling_probability": 0.2, "batch_size": 36, "radius": 0.001},
        aggregator={"kind": "decomfl", "step_size": 0.2, "perturbations": 4},
    ),
    "diff2": private(
        EXAMPLE,
        {"kind": "diff2", "clipping_norm": 5.0, "difference_clipping_norm": 5.0, "noise_multiplier": 1.0},
        client={"kind": "gradient_difference"},
        aggregator={"kind": "diff2", "restart_every": 2, "server_lr": 0.5},
    ),
    "shuffle_vector_sum": private(
        SHUFFLE,
        {"kind": "shuffle_vector_sum", "clipping_norm": 1.0, "minimum_clients": 6, "levels": 4, "bits": 200},
        6,
        client=ONE_STEP,
        aggregator={"kind": "minibatch_sgd", "server_lr": 0.5},
    ),
    "shuffle_hemisphere": private(
        SHUFFLE,
        {"kind": "shuffle_hemisphere", "clipping_norm": 1.0, "minimum_clients": 6, "local_epsilon": 1.0},
        6,
        client=ONE_STEP,
        aggregator={"kind": "minibatch_sgd", "server_lr": 0.5},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mechanism_has_the_simulated_ledger_and_noise_of_the_operating_system(name: str, tmp_path: Path) -> None:
    chosen = CASES[name]
    assert deploy(chosen, tmp_path)["status"] == "finished"
    deployed, simulated = Run(tmp_path / "run"), simulate(chosen, tmp_path / "simulated")
    ledgers = [json.loads((run.directory / "privacy.json").read_text()) for run in (deployed, simulated)]
    if chosen.sampling.kind() != "all":  # cohorts come from a secret seed
        assert ledgers[0].pop("participations") != {} != ledgers[1].pop("participations")
    assert ledgers[0] == ledgers[1]
    mine, theirs = deployed.parameters(), simulated.parameters()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) > 1e-4


LITTLE_NOISE = {"kind": "local_gaussian", "clipping_norm": 1e3, "noise_multiplier": 1e-10}
FULL = {
    "dp_spsa": private(
        EXAMPLE,
        {"kind": "dp_sgd", "clipping_norm": 10.0, "noise_multiplier": 1e-8},
        client={"kind": "dp_spsa", "sampling_probability": 1.0, "batch_size": 36, "radius": 0.001},
        aggregator={"kind": "decomfl", "step_size": 0.2, "perturbations": 4},
    ),
    "spsa": private(
        LOCAL,
        LITTLE_NOISE,
        client={"kind": "spsa", "batch_size": "full"},
        aggregator={"kind": "decomfl", "step_size": 0.02, "perturbations": 4, "local_steps": 1},
    ),
    "feedsign": private(
        LOCAL,
        LITTLE_NOISE,
        client={"kind": "spsa", "batch_size": "full"},
        aggregator={"kind": "feedsign", "step_size": 0.2},
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_clients_measure_along_the_directions_that_the_server_applies(name: str, tmp_path: Path) -> None:
    """With full batches and next to no noise nothing private is drawn, and the deployed model is the simulated one."""
    assert deploy(FULL[name], tmp_path)["status"] == "finished"
    mine, theirs = Run(tmp_path / "run").parameters(), simulate(FULL[name], tmp_path / "simulated").parameters()
    for part, values in mine.items():
        assert float(values.abs().max()) > 1e-3
        assert float((values - theirs[part]).abs().max()) < 1e-4, part


@pytest.mark.parametrize("kind", ["distributed_gaussian", "skellam"])
def test_secure_aggregation_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    chosen = private(CENTRAL | {"trust": "distributed"}, {"kind": kind, "clipping_norm": 0.5, "noise_multiplier": 1.0})
    with pytest.raises(DeploymentRefused, match=r"secaggplus_mod.*Use trust: local or central"):
        deploy(chosen, tmp_path)


@pytest.mark.parametrize("mechanism", [{"kind": "gaussian", "clipping_norm": 0.5}, {"kind": "adaptive_gaussian"}])
def test_votes_that_no_sign_can_carry_are_refused(mechanism: dict[str, Any], tmp_path: Path) -> None:
    votes = {"client": {"kind": "spsa"}, "aggregator": {"kind": "feedsign", "step_size": 0.01}}
    chosen = private(CENTRAL, {**mechanism, "noise_multiplier": 3.0}, **votes)
    with pytest.raises(DeploymentRefused, match=r"sent as \+1 or -1.*clipping_norm: 1"):
        deploy(chosen, tmp_path)
    unit = private(CENTRAL, {"kind": "gaussian", "clipping_norm": 1.0, "noise_multiplier": 3.0}, **votes)
    assert deploy(unit, tmp_path)["warnings"] == simulate(unit, tmp_path / "simulated").summary["warnings"]
