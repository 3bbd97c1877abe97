"""What can be deployed, and what a deployment may write. No torch, no flwr."""

from __future__ import annotations

from fedopt import schemas
from fedopt.privacy.public_schedule import remedy, rounds_are_timed, sizes_are_private, work_depends_on_examples
from fedopt.scenario import Scenario


class DeploymentRefused(ValueError):
    """The scenario cannot be deployed as it is; says why and what to do."""


def refusals(scenario: Scenario) -> list[str]:
    """Why a scenario cannot be deployed, each with a remedy; empty if it can. No torch."""
    privacy, found = scenario.privacy, []
    if privacy is not None and privacy.trust == "distributed":
        found.append(
            "privacy.trust: distributed needs secure aggregation, which Flower 1.41 has only in its older API "
            "(secaggplus_mod), not for the message API used here: the server would see every client's thinly noised "
            "reply. Use trust: local or central, or simulate"
        )
    if privacy is not None and privacy.mechanism.own_parts and _streams(scenario):
        found.append(
            f"mechanism {privacy.mechanism.kind()} moves its clipping norm while replies of a stream are under way, so "
            "a reply may exceed the bound that counts at its release; use aggregator: fedavg, or mechanism: gaussian"
        )
    if _real_durations_are_private(scenario):
        found.append(
            "real durations follow a client's work, which depends on its private number of examples, and decide which "
            f"release its reply is in; {remedy(scenario)}"
        )
    if getattr(scenario.aggregator, "weights", None) == "unbiased" and _needs_durations(scenario):
        found.append(
            f"weights: unbiased of {scenario.aggregator.kind()} come from the device model's times, which say nothing "
            "about real devices; use weights: gap"
        )
    if scenario.aggregator.kind() == "feedsign" and _clips_below_one(scenario):
        found.append(
            "a vote of aggregator feedsign is sent as +1 or -1, and the server refuses what exceeds the clipping "
            "norm; use mechanism: {kind: gaussian, clipping_norm: 1}"
        )
    if privacy is not None and scenario.run.target_metric is not None:
        found.append(
            "run.target_metric looks at the test set after every step, which is not paid for; use server_steps"
        )
    return found


def _real_durations_are_private(scenario: Scenario) -> bool:
    """Whether arrival times decide and say how much data a client has, whatever the scenario's device model says."""
    if scenario.privacy is None or not (_streams(scenario) or rounds_are_timed(scenario)):
        return False
    return sizes_are_private(scenario) and work_depends_on_examples(scenario)


def _clips_below_one(scenario: Scenario) -> bool:
    """Whether the server enforces a clipping norm that may be below 1."""
    privacy = scenario.privacy
    if privacy is None or privacy.trust != "central" or privacy.unit != "client":
        return False
    return bool(privacy.mechanism.own_parts) or getattr(privacy.mechanism, "clipping_norm", 1.0) < 1


def _needs_durations(scenario: Scenario) -> bool:
    """Whether the aggregator's unbiased weights are made of task times (FedBuff's are measured)."""
    return scenario.aggregator.kind() in ("fedfix", "async_fedavg")


def _streams(scenario: Scenario) -> bool:
    """Whether the aggregator keeps clients in flight instead of running rounds."""
    from fedopt.types import Public

    return scenario.aggregator.plan(None, Public(clients_of(scenario), 1.0)).pacing == "stream"


def warnings_of(scenario: Scenario) -> list[str]:
    """What the user must know of a deployment."""
    privacy, found = scenario.privacy, []
    if privacy is not None and privacy.trust == "shuffle":
        found.append(
            "trust shuffle: SuperLink and ServerApp act as the shuffler; they see who sent what, and epsilon holds "
            "against everybody who sees only the released models"
        )
    if privacy is not None and scenario.sampling.kind() == "poisson":
        found.append(
            "sampling poisson: epsilon holds while it stays hidden who took part; the tables rounds, updates and "
            "clients of this run directory say it, so publish the model and privacy.json only"
        )
    return found


def withheld(scenario: Scenario, public_test: bool) -> frozenset[str]:
    """Columns that a deployment does not write: under privacy everything that was not paid for."""
    unknown = _unknown(scenario)
    if scenario.privacy is None:
        return unknown
    tables = (schemas.ROUND_COLUMNS, schemas.CLIENT_COLUMNS)
    marked = {column.name for table in tables for column in table if column.simulator_only}
    if "num_examples" in getattr(scenario.data, "public", ()):
        marked -= {"num_examples"}
    return frozenset(marked - (_TESTS if public_test else set())) | unknown


_TESTS = {"test_loss", "metric_value", "test_accuracy"}


def _unknown(scenario: Scenario) -> frozenset[str]:
    """What a server cannot know because the data lies on the nodes."""
    if not hasattr(scenario.data, "load_node"):
        return frozenset()
    per_client = {"class_counts", "local_metric", "local_loss", "num_test_examples"}
    return frozenset(per_client | (set() if getattr(scenario.data, "test_path", None) else _TESTS))


def clients_of(scenario: Scenario) -> int:
    """Population of a scenario, without loading its data."""
    return int(scenario.data.clients)  # type: ignore[attr-defined]


def fedopt_version() -> str:
    """Installed version."""
    from importlib.metadata import version

    return version("fedopt")
