"""What a node that protects itself knows of a run: from its own scenario and data, never on the server's word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fedopt.data.base import FederatedData
from fedopt.scenario import Scenario
from fedopt.types import Public


class NodeRefusal(RuntimeError):
    """The node does not do this work; the text says why and holds no data."""


def public_facts(public: Public) -> dict[str, Any]:
    """Public constants as facts of a message."""
    counts = public.num_examples
    return {
        "num_clients": public.num_clients,
        "expected_cohort": public.expected_cohort,
        "is_private": public.is_private,
        # Without privacy the server may know the counts, but nobody else needs them.
        "num_examples": None if counts is None or not public.is_private else [int(n) for n in counts],
        "horizon": public.horizon,
        "seed": public.seed,
        "concurrency": public.concurrency,
        "dimension": public.dimension,
    }


def public_of(facts: dict[str, Any]) -> Public:
    """Public constants from the facts of a message."""
    counts = facts.get("num_examples")
    return Public(**{**facts, "num_examples": None if counts is None else np.array(counts, dtype=np.int64)})


def checked_public(facts: dict[str, Any], scenario: Scenario, data: FederatedData, client: int, size: int) -> Public:
    """Public constants of a message; under privacy only where they are what the node would say itself.

    Noise is calibrated from them and the ledger charged by them: with a larger number of examples than there is, a
    node would believe that its records are sampled less often than they are. Of the other clients' numbers of examples
    the server is believed: noise is calibrated for the ledger that needs the most, so they can only raise it.

    Args:
        facts: ``public`` of the message.
        scenario, data: the node's own.
        client: whose work it is.
        size: parameters of the node's own model.
    Raises:
        NodeRefusal: the server claims something else.
    """
    public = public_of(facts)
    if scenario.privacy is None:
        return public
    expected = _from_scenario(scenario, data.clients.num_clients, size)
    wrong = [
        f"{name} = {getattr(public, name)} (here {getattr(expected, name)})"
        for name in ("num_clients", "expected_cohort", "is_private", "horizon", "seed", "concurrency", "dimension")
        if getattr(public, name) != getattr(expected, name)
    ]
    if wrong:
        raise NodeRefusal(
            f"client {client}: the server claims {', '.join(wrong)}; noise is not calibrated to it. Pack the same "
            "scenario on both sides"
        )
    if "num_examples" not in getattr(scenario.data, "public", ()):
        return replace(public, num_examples=None)
    counts, own = public.num_examples, int(data.clients.sizes()[client])
    if counts is None or len(counts) != public.num_clients or int(counts[client]) != own:
        raise NodeRefusal(
            f"client {client}: the server claims another number of examples than there are here; noise is not "
            "calibrated to it. Did the local data change after the node said hello? Restart the run"
        )
    return public


def _from_scenario(scenario: Scenario, clients: int, size: int) -> Public:
    public = Public(
        num_clients=clients,
        expected_cohort=scenario.sampling.expected_cohort(clients),
        is_private=True,
        horizon=scenario.run.server_steps,
        seed=scenario.seed,
        concurrency=scenario.sampling.slots(clients),
        dimension=size,
    )
    return public.closed_by(scenario.aggregator.plan(None, public).close)
