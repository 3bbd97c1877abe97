"""A node that protects itself calibrates and pays by its own scenario and data, whatever the server says."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("flwr")

import numpy as np
import torch
from flwr.app import RecordDict
from virtual_deployment import scenario

from fedopt.data.base import ClientIndex
from fedopt.flower.memory import Memory
from fedopt.flower.node import Node, Order
from fedopt.flower.own_facts import NodeRefusal, public_facts
from fedopt.protocol import Dispatch, Started
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import assemble
from fedopt.simulation.fleet import ReadyNow

EXAMPLE = {"unit": "example", "relation": "zero_out_one", "delta": 1e-5, "trust": "local"}
MECHANISM = {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 1.0}
DP_SGD = scenario(
    privacy={**EXAMPLE, "mechanism": MECHANISM, "max_epsilon": 50.0},
    client={"kind": "dp_sgd", "lr": 0.1, "batch_size": 8, "steps": 4},
)
LOCAL = scenario(
    privacy={
        "unit": "client",
        "trust": "local",
        "relation": "replace_one",
        "delta": 1e-5,
        "mechanism": {"kind": "local_gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0},
    },
)
DP_SPSA = scenario(
    privacy={**EXAMPLE, "mechanism": {**MECHANISM, "noise_multiplier": 1e-9, "clipping_norm": 10.0}},
    client={"kind": "dp_spsa", "sampling_probability": 1.0, "batch_size": 36, "radius": 0.001},
    aggregator={"kind": "decomfl", "step_size": 0.2, "perturbations": 4},
)


def node_of(chosen: Scenario) -> Node:
    return Node(chosen, chosen.data.load(chosen.seed), Memory(RecordDict()))


def order_of(chosen: Scenario, digest: bytes = b"one", steps: int | None = None, **claims: Any) -> Order:
    """The first order of a run to client 0, with other public facts claimed."""
    parts = assemble(chosen)
    server = parts.server
    found = server.on(Started(0, ReadyNow(parts.clock, 0)))
    dispatch = next(each for each in found if isinstance(each, Dispatch) and each.client == 0)
    message = dispatch.message
    if steps is not None:
        message = replace(message, config={**message.config, "local_steps": steps})
    facts = {"dispatch": 0, "client": 0, "task": 0, "step": 1, "phase": "train", "seed": chosen.seed, "mechanism": {}}
    return Order({**facts, "public": {**public_facts(server.public), **claims}}, message, digest)


def charged(node: Node) -> dict[str, int]:
    return node.memory.get("ledger", {}).get("0", {})


def test_an_honest_server_is_worked_for() -> None:
    node = node_of(DP_SGD)
    assert torch.isfinite(node.work(order_of(DP_SGD)).parts["update"]).all()
    assert list(charged(node).values()) == [4]


@pytest.mark.parametrize(
    "claim, value",
    [
        ("num_examples", [10_000, 200, 200]),
        ("num_examples", None),
        ("num_examples", [200]),
        ("horizon", 1),
        ("expected_cohort", 1.0),
        ("num_clients", 4),
        ("dimension", 3),
        ("is_private", False),
    ],
)
def test_a_server_that_claims_what_is_not_so_gets_nothing(claim: str, value: Any) -> None:
    """A larger number of examples means a smaller sampling rate: less noise for a target, a smaller charge."""
    node = node_of(DP_SGD)
    with pytest.raises(NodeRefusal, match="client 0: the server claims"):
        node.work(order_of(DP_SGD, **{claim: value}))
    assert not charged(node)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_number_of_steps_makes_a_reply_free(steps: int) -> None:
    for chosen in (DP_SGD, DP_SPSA):
        node = node_of(chosen)
        with suppress(Exception):  # whether it works or not
            node.work(order_of(chosen, steps=steps))
        assert list(charged(node).values()) == [1]


CALIBRATED = scenario(
    privacy={
        **LOCAL.privacy.model_dump(exclude={"mechanism"}),
        "target_epsilon": 4.0,
        "mechanism": {"kind": "local_gaussian"},
    }
)
SCAFFOLD = scenario(
    privacy={
        "relation": "zero_out_one",
        "mechanism": {"kind": "gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0},
    },
    client={"kind": "scaffold", "lr": 0.1, "batch_size": 8, "steps": 4},
    aggregator={"kind": "scaffold"},
)
DIFF2 = scenario(
    privacy={
        **EXAMPLE,
        "relation": "replace_one",
        "target_epsilon": 4.0,
        "mechanism": {"kind": "diff2", "noise": "local"},
    },
    client={"kind": "gradient_difference"},
    aggregator={"kind": "diff2", "restart_every": 3},
)


def asked(chosen: Scenario, node: Node, number: int, restart: bool | None = None) -> torch.Tensor:
    """The node's reply to the first order with another digest, as if it were of a later round."""
    order = order_of(chosen, digest=bytes([number]))
    if restart is not None:
        parts = {**order.message.parts, "previous": order.message.parts["params"] * 0.5 + 0.1}
        order = replace(
            order, message=replace(order.message, parts=parts, config={**order.message.config, "restart": restart})
        )
    return next(iter(node.work(order).parts.values()))


def test_a_server_that_asks_for_more_than_was_planned_gets_nothing():
    """Noise was calibrated for three replies; only the target is given, no max_epsilon."""
    node = node_of(CALIBRATED)
    for number in range(3):
        assert torch.isfinite(asked(CALIBRATED, node, number)).all()
    with pytest.raises(NodeRefusal, match="client 0: this task would exceed target_epsilon = 4"):
        asked(CALIBRATED, node, 3)
    assert torch.isfinite(asked(CALIBRATED, node, 1)).all()  # the same message again costs nothing
    assert len(charged(node)) == 3


def test_a_client_without_examples_has_nothing_to_pay_for():
    """Its batches would be all of its examples: at that rate it would refuse what was planned for the others."""
    chosen = scenario(
        privacy={**EXAMPLE, "target_epsilon": 4.0, "mechanism": {"kind": "dp_sgd"}},
        client={"kind": "dp_sgd", "lr": 0.1, "batch_size": 8, "steps": 4},
    )
    data = chosen.data.load(chosen.seed)
    held = [data.clients.of(client) for client in range(3)]
    data = replace(data, clients=ClientIndex.from_lists([held[0][:0], *held[1:]]))
    node = Node(chosen, data, Memory(RecordDict()))
    for number in range(3):
        order = order_of(chosen, bytes([number]), num_examples=data.clients.sizes().tolist())
        assert torch.isfinite(node.work(order).parts["update"]).all()


def test_a_node_pays_for_the_kind_of_round_it_makes_its_noise_for():
    """One restart and two differences were planned, half of the budget each: two restarts leave nothing."""
    node = node_of(DIFF2)
    for number, restart in enumerate((True, False, False)):
        assert torch.isfinite(asked(DIFF2, node, number, restart)).all()
    with pytest.raises(NodeRefusal, match="would exceed target_epsilon"):
        asked(DIFF2, node, 3, False)
    other = node_of(DIFF2)
    for number in range(2):
        asked(DIFF2, other, number, True)
    with pytest.raises(NodeRefusal, match="would exceed target_epsilon"):
        asked(DIFF2, other, 2, False)


def spoilt(chosen: Scenario, memory: Memory) -> Node:
    """A node whose work gives NaN, whichever of client 0's examples are drawn."""
    data = chosen.data.load(chosen.seed)
    inputs = data.train.inputs.copy()
    inputs[data.clients.of(0)] = np.nan
    return Node(chosen, replace(data, train=replace(data.train, inputs=inputs)), memory)


def test_a_reply_that_is_not_finite_leaves_as_zero_and_noise() -> None:
    """Whether a reply exists must not tell that a record has an enormous feature."""
    sent = spoilt(LOCAL, Memory(RecordDict())).work(order_of(LOCAL)).parts["update"]
    assert torch.isfinite(sent).all() and float(sent.std()) == pytest.approx(2 * 0.5, rel=0.1)


def test_after_a_reply_that_was_not_finite_a_client_goes_on_from_the_state_it_had() -> None:
    """As in simulations: a kept NaN would end the next task with an error, which tells of the record."""
    memory, dispatched = Memory(RecordDict()), order_of(SCAFFOLD)
    later = replace(order_of(SCAFFOLD, b"two"), facts={**dispatched.facts, "dispatch": 3, "state_from": 0})
    first = spoilt(SCAFFOLD, memory).work(dispatched).parts
    assert {name: float(part.norm()) for name, part in first.items()} == {"update": 0.0, "control": 0.0}
    second = spoilt(SCAFFOLD, memory).work(later).parts
    assert float(second["update"].norm()) == 0.0
    last = replace(later, facts={**later.facts, "dispatch": 5, "state_from": 3}, digest=b"three")
    mended, fresh = Node(SCAFFOLD, SCAFFOLD.data.load(SCAFFOLD.seed), memory).work(last), node_of(SCAFFOLD)
    expected = fresh.work(replace(last, facts={**last.facts, "state_from": None})).parts
    assert all(torch.equal(part, expected[name]) and part.norm() > 0 for name, part in mended.parts.items())
