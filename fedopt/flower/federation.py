"""Which connected node acts for which client: nodes say their partition once, come, go, and come back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedopt.flower.rules import fedopt_version
from fedopt.flower.wire import PROTOCOL, WireError, facts_of

logger = logging.getLogger("fedopt.flower")

HELLO_TTL_S = 120.0
REFRESH_S = 3.0


class Federation:
    """Connected nodes by partition; partition p of P acts for the clients c with ``c % P == p``.

    Args:
        grid: Flower's grid.
        num_clients: population.
        scenario_hash: of the server's scenario; nodes with another one are not used.
        on_problem: called once with every reason not to use a node.
        clock, sleep: seconds; replaced where time is virtual.
    """

    def __init__(
        self,
        grid: Grid,
        num_clients: int,
        scenario_hash: str,
        on_problem: Any = logger.warning,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.grid, self.num_clients, self.scenario_hash = grid, num_clients, scenario_hash
        self.on_problem, self._clock, self._sleep = on_problem, clock, sleep
        self.partitions = 0
        self.examples: dict[int, int] = {}  # partition -> public number of examples
        self._node_of: dict[int, int] = {}
        self._known: set[int] = set()
        self._asked: dict[str, int] = {}  # hello message -> node
        self._refreshed = -float("inf")

    def refresh(self, now: bool = False) -> None:
        """Greet new nodes, hear their answers, forget nodes that left."""
        if not now and self._clock() - self._refreshed < REFRESH_S:
            return
        self._refreshed = self._clock()
        connected = set(self.grid.get_node_ids())
        self._forget(self._known - connected)
        arrived = sorted(connected - self._known)
        if arrived:
            ids = list(self.grid.push_messages([self._greeting(node) for node in arrived]))
            self._asked |= {message: node for message, node in zip(ids, arrived, strict=True) if message}
            self._known |= set(arrived)
        if self._asked:
            for reply in self.grid.pull_messages(list(self._asked)):
                node = self._asked.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    self._hear(node, reply)

    def _greeting(self, node: int) -> Message:
        text = json.dumps({"protocol": PROTOCOL, "fedopt": fedopt_version()})
        content = RecordDict({"fedopt.facts": ConfigRecord({"json": text})})
        return Message(content, node, "query", ttl=HELLO_TTL_S, group_id="hello")

    def _forget(self, gone: set[int]) -> None:
        self._known -= gone
        self._asked = {message: node for message, node in self._asked.items() if node not in gone}
        for partition, node in list(self._node_of.items()):
            if node in gone:
                del self._node_of[partition]
                self.on_problem(f"the node of partition {partition} left; its clients are not asked until it is back")

    def _hear(self, node: int, reply: Message) -> None:
        problem = self._problem(reply)
        if problem is not None:
            if "disappeared" not in problem:
                self.on_problem(f"node {node} is not used: {problem}")
            return
        facts = facts_of(reply.content)
        partition, self.partitions = int(facts["partition"]), int(facts["partitions"])
        if self._node_of.get(partition) in self._known:  # a restarted node is back before the old one is missed
            self.on_problem(f"partition {partition} has a new node; if both run, give each its own partition-id")
        self._node_of[partition] = node
        if "num_examples" in facts:
            self.examples[partition] = int(facts["num_examples"])

    def _problem(self, reply: Message) -> str | None:
        """Why a node cannot be used, or None."""
        if reply.has_error():
            return reply.error.reason or f"error {reply.error.code}"
        try:
            facts = facts_of(reply.content)
        except WireError as error:
            return str(error)
        if facts.get("problem"):
            return str(facts["problem"])
        if facts.get("protocol") != PROTOCOL:
            return f"it speaks protocol {facts.get('protocol')}, the server {PROTOCOL}; upgrade one of them"
        if facts.get("scenario") != self.scenario_hash:
            return (
                "it read another scenario (or another version of fedopt fills in other defaults); upgrade one of them"
            )
        if self.partitions and facts["partitions"] != self.partitions:
            return f"it says num-partitions={facts['partitions']}, others say {self.partitions}"
        return None

    @property
    def complete(self) -> bool:
        """Whether every partition has a node."""
        return bool(self.partitions) and len(self._node_of) == self.partitions

    def node_of(self, client: int) -> int | None:
        """The node that acts for a client, or None if it is not there."""
        return self._node_of.get(client % self.partitions) if self.partitions else None

    def is_connected(self, node: int) -> bool:
        """Whether a node is there."""
        return node in self._known

    def wait(self, seconds: float, fewest: int = 1) -> None:
        """Wait until every partition has a node, or ``seconds`` have passed and at least ``fewest`` have.

        Raises:
            TimeoutError: fewer nodes came.
        """
        end = self._clock() + seconds
        while not self.complete and self._clock() < end:
            self.refresh(now=True)
            self._sleep(0.5)
        if len(self._node_of) < fewest:
            raise TimeoutError(
                f"{len(self._node_of)} of at least {fewest} SuperNodes answered within {seconds:g} s; check that they "
                "run, reach the SuperLink, and have fedopt and the data installed"
            )


class ConnectedNow:
    """Clients whose node is connected (a ``Ready``)."""

    def __init__(self, federation: Federation):
        self.num_clients = federation.num_clients
        self._federation = federation

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        """Clients ``[k]`` -> ``[k]`` bool."""
        return np.array([self._federation.node_of(int(client)) is not None for client in clients], dtype=bool)
