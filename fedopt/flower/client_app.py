"""The ClientApp: answers a server's hello, does a client's work, and never lets data or a traceback out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedopt.flower import own_modules
from fedopt.flower.rules import clients_of, fedopt_version
from fedopt.scenario import Scenario, load

if TYPE_CHECKING:
    from fedopt.data.base import FederatedData

WORK_FAILED = 900  # code of our error replies; Flower's own are below 100
MOST_MESSAGE_BYTES = 1 << 31

logger = logging.getLogger("fedopt.flower")


def client_app(scenario: Path) -> ClientApp:
    """The ClientApp of a scenario.

    Args:
        scenario: file packed with the app.
    """
    own_modules.use()
    app = ClientApp()
    # Tells the virtual grid what it may vectorise.
    app.fedopt_scenario = scenario  # type: ignore[attr-defined]

    @app.query()
    def hello(message: Message, context: Context) -> Message:
        return Message(_facts(_hello(load(scenario), context)), reply_to=message)

    @app.train()
    def work(message: Message, context: Context) -> Message:
        if "fedopt.facts" not in message.content.config_records:  # from one of Flower's own strategies
            return answer_strategy(load(scenario), message, context)
        return answer(load(scenario), message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer_strategy(load(scenario), message, context)

    return app


def answer_strategy(scenario: Scenario, message: Message, context: Context) -> Message:
    """Reply to a train or evaluate message of one of Flower's own strategies with the scenario's client work."""
    from fedopt.flower.memory import Memory
    from fedopt.flower.vectorized import FlowerMessages

    memory = Memory(context.state)
    client, task = place_of(context, clients_of(scenario))[0], int(memory.get("strategy_tasks", 0))
    memory.put("strategy_tasks", task + 1)
    return FlowerMessages(scenario, _data(scenario, context, client)).answer([message], [client], [task])[0]


def answer(scenario: Scenario, message: Message, context: Context) -> Message:
    """Reply to one task; an error becomes a reply with its kind and reason, so that the server need not wait."""
    from fedopt.flower.wire import encode

    try:
        found = _work(scenario, message, context)
        return Message(encode(found.parts, found.facts), reply_to=message)
    except Exception as error:
        logger.exception("the work failed")  # on this machine only
        return Message(Error(WORK_FAILED, _reason(error)), reply_to=message)


def _reason(error: Exception) -> str:
    """What the server may know of a failure: our own refusals in full, of everything else only the kind.

    The text of a foreign exception may quote data.
    """
    from fedopt.flower.own_facts import NodeRefusal
    from fedopt.flower.wire import WireError

    told = isinstance(error, NodeRefusal | WireError | NodeConfigError)
    return f"{type(error).__name__}: {error}" if told else f"{type(error).__name__} (its text stays in the node's log)"


class NodeConfigError(ValueError):
    """The node's configuration does not fit the scenario; says which entry."""


def _work(scenario: Scenario, message: Message, context: Context) -> Any:
    import fedopt.types as types
    from fedopt.flower.memory import Memory
    from fedopt.flower.node import Node, Order
    from fedopt.flower.wire import PROTOCOL, WireError, digest, facts_of, tensors_of

    facts = facts_of(message.content)
    if facts.get("protocol") != PROTOCOL:
        raise WireError(
            f"the server speaks protocol {facts.get('protocol')}, this node {PROTOCOL}; upgrade one of them"
        )
    client = int(facts["client"])
    partition, partitions = place_of(context, int(facts["public"]["num_clients"]))
    if client % partitions != partition:
        raise WireError(f"client {client} does not live on partition {partition} of {partitions}")
    parts = tensors_of(message.content, most_bytes=MOST_MESSAGE_BYTES)
    order = Order(facts, types.Message(parts, dict(facts["config"])), digest(message.content))
    return Node(scenario, _data(scenario, context, client), Memory(context.state)).work(order)


def place_of(context: Context, num_clients: int) -> tuple[int, int]:
    """(partition-id, num-partitions) of the node: it acts for the clients equal to partition-id modulo num-partitions.

    Raises:
        NodeConfigError: missing or out of range.
    """
    found = context.node_config
    try:
        partition, partitions = int(found["partition-id"]), int(found.get("num-partitions", num_clients))
    except (KeyError, ValueError, TypeError) as error:
        raise NodeConfigError(
            "start the SuperNode with --node-config 'partition-id=0 num-partitions=3' (ids from 0)"
        ) from error
    if not 0 <= partition < partitions <= num_clients:
        raise NodeConfigError(
            f"partition-id={partition} num-partitions={partitions} does not fit {num_clients} clients: ids count from "
            "0, and there are at most as many partitions as clients"
        )
    return partition, partitions


def _hello(scenario: Scenario, context: Context) -> dict[str, Any]:
    """What a node says about itself: place, versions, and its number of examples only where that is public."""
    from fedopt.flower.wire import PROTOCOL

    facts: dict[str, Any] = {"protocol": PROTOCOL, "fedopt": fedopt_version(), "scenario": scenario.content_hash()}
    try:
        partition, partitions = place_of(context, clients_of(scenario))
    except NodeConfigError as error:
        return {**facts, "problem": str(error)}
    facts |= {"partition": partition, "partitions": partitions}
    if hasattr(scenario.data, "load_node"):
        try:
            local = scenario.data.load_node(_path(context), partition)
        except (OSError, ValueError, NodeConfigError) as error:
            logger.exception("the local data cannot be read")
            return {**facts, "problem": f"partition {partition} cannot read its local data: {type(error).__name__}"}
        if "num_examples" in scenario.data.public:  # type: ignore[attr-defined]
            facts["num_examples"] = int(local.clients.sizes()[partition])
    return facts


def _data(scenario: Scenario, context: Context, client: int) -> FederatedData:
    """The scenario's data, or the files of this node."""
    if hasattr(scenario.data, "load_node"):
        return scenario.data.load_node(_path(context), client)  # type: ignore[no-any-return]
    return scenario.data.load(scenario.seed)


def _path(context: Context) -> str:
    path = context.node_config.get("data-path")
    if not isinstance(path, str):
        raise NodeConfigError("start the SuperNode with --node-config 'data-path=\"/path/to/file.npz\" ...'")
    return path


def _facts(facts: dict[str, Any]) -> RecordDict:
    """A message without tensors; needs no torch."""
    import json

    from flwr.app import ConfigRecord

    return RecordDict({"fedopt.facts": ConfigRecord({"json": json.dumps(facts)})})
