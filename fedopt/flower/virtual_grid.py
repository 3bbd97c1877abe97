"""Flower's grid on the virtual clock: unmodified Flower apps with our devices, delays and drop-outs."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedopt.devices.base import Fleet
from fedopt.rng import key
from fedopt.scenario import Devices
from fedopt.simulation.fleet import DeviceClock, ReadyNow
from fedopt.types import Ticks

logger = logging.getLogger("fedopt.flower")

ClientCall = Callable[[Message, Context], Message]
CohortCall = Callable[[Sequence[Message], Sequence[int], Sequence[int]], list[Message]]


@dataclass
class _Task:
    """A message on its way to a node and back."""

    number: int  # of the message; breaks ties between arrivals
    message: Message
    client: int
    task: int
    ends: Ticks
    lost: str | None
    reply: Message | None = None


class VirtualGrid(Grid):
    """A ``flwr.serverapp.Grid`` whose nodes live on our virtual clock.

    Node i has ``partition-id`` i and ``num-partitions`` N. A message takes the download, work and upload time of the
    devices; nodes that are away are not listed; lost tasks become error replies when their loss is noticed, and
    messages expire after their time to live. Waiting costs nothing: the clock jumps.

    Args:
        client_app: a Flower ClientApp, or any ``(message, context) -> message``.
        num_nodes: N.
        devices: delays, availability, drop-outs; none by default.
        seed: of the devices' streams and of torch, NumPy and random inside every task.
        run_config: of the app.
        local_steps, batch_size: what the compute model is told of a task, since a foreign app does not say.
        cohort_call: trains many messages at once in place of ``client_app`` (our own client work), or None.
        jump: whether looking for replies when none has arrived lets the clock jump to the next arrival; without it time
            only passes by ``advance``.

    Guarantees: same arguments and same server, same times and, where the ClientApp draws only from torch, NumPy and
    random, same replies.
    """

    def __init__(
        self,
        client_app: ClientCall,
        num_nodes: int,
        devices: Devices | None = None,
        seed: int = 0,
        run_config: Mapping[str, Any] | None = None,
        local_steps: int = 1,
        batch_size: int = 1,
        cohort_call: CohortCall | None = None,
        jump: bool = True,
    ):
        self.client_app, self.num_nodes, self.seed = client_app, num_nodes, seed
        self.local_steps, self.batch_size, self.cohort_call = local_steps, batch_size, cohort_call
        self.jump = jump
        fleet = Fleet(seed, num_nodes, np.ones(num_nodes, dtype=np.int64))
        _take_identity()
        self.clock = DeviceClock(devices or Devices(), fleet)
        self.now: Ticks = 0
        self.counts = {"messages": 0, "replies": 0, "lost": 0, "failed": 0}
        self._run: Any = None
        self._looks = 0  # at the list of nodes since anything was sent
        self._numbers = itertools.count(1)
        self._tasks: dict[str, _Task] = {}
        self._given = [0] * num_nodes
        self._contexts = [
            Context(1, i + 1, {"partition-id": i, "num-partitions": num_nodes}, RecordDict(), dict(run_config or {}))
            for i in range(num_nodes)
        ]

    @property
    def time_s(self) -> float:
        """Virtual seconds since the start."""
        return float(self.clock.seconds(self.now))

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.now += max(1, self.clock.ticks(seconds))

    # ---- Flower's interface ------------------------------------------------------------------------------------

    def set_run(self, run: Any) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Any:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A new message (deprecated by Flower in favour of the constructor)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are there now.

        Flower's strategies wait for enough nodes by asking again and again: from the third time on, and while nobody is
        there, the clock jumps to the next change.
        """
        clients = np.arange(self.num_nodes)
        self._looks += 1
        there = ReadyNow(self.clock, self.now).is_ready(clients)
        while self.jump and (self._looks > 2 or not there.any()):
            change = self.clock.next_change(self.now)
            if change is None:
                break
            self.now, self._looks = change, 2
            there = ReadyNow(self.clock, self.now).is_ready(clients)
        return [int(client) + 1 for client in clients[there]]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; each arrives in its own time."""
        self._looks = 0
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived, in order of arrival; if none has, the clock jumps to the next arrival."""
        wanted = set(message_ids)
        found = self._due(wanted)
        if not found and self.jump and (following := self._next_end(wanted)) is not None:
            self.now = max(self.now, following)
            found = self._due(wanted)
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, wait for all replies or ``timeout`` virtual seconds, and return what came, in order of arrival."""
        waiting = set(self.push_messages(messages))
        last = max((self._tasks[i].ends for i in waiting), default=self.now)
        end = last if timeout is None else min(last, self.now + self.clock.ticks(timeout))
        self.now = max(self.now, end)
        return self._due(waiting)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _push(self, message: Message) -> str:
        client = message.metadata.dst_node_id - 1
        if not 0 <= client < self.num_nodes:
            raise ValueError(f"there is no node {message.metadata.dst_node_id}; ids run from 1 to {self.num_nodes}")
        number = next(self._numbers)
        message_id = f"virtual-{number}"
        message.metadata.__dict__["_message_id"] = message_id
        sent = _as_sent(message)
        task, ends = self._given[client], self.now
        lost: str | None = None
        if not message.metadata.message_type.startswith("query"):  # a question is no work
            self._given[client] += 1
            size = content_bytes(sent.content)
            ends, lost = self.clock.outcome(self.now, client, task, self.local_steps, self.batch_size, size, size)
        expires = self.now + self.clock.ticks(message.metadata.ttl)
        if ends > expires:
            ends, lost = expires, "the message expired"
        self._tasks[message_id] = _Task(number, sent, client, task, ends, lost)
        self.counts["messages"] += 1
        return message_id

    def _next_end(self, wanted: set[str]) -> Ticks | None:
        return min((self._tasks[i].ends for i in wanted if i in self._tasks), default=None)

    def _due(self, wanted: set[str]) -> list[Message]:
        """Replies of wanted tasks that have ended, in order of arrival."""
        ended = [(i, self._tasks[i]) for i in wanted if i in self._tasks and self._tasks[i].ends <= self.now]
        due = [i for i, task in sorted(ended, key=lambda each: (each[1].ends, each[1].number))]
        self._compute([i for i in due if self._tasks[i].reply is None])
        return [reply for i in due if (reply := self._tasks.pop(i).reply) is not None]

    def _compute(self, ids: list[str]) -> None:
        """Replies of tasks; with our own client work, of everything under way together."""
        lost = [i for i in ids if self._tasks[i].lost is not None]
        for i in lost:
            self._tasks[i].reply = self._error(self._tasks[i].message, ErrorCode.NODE_UNAVAILABLE, self._tasks[i].lost)
            self.counts["lost"] += 1
        good = [i for i in ids if self._tasks[i].lost is None]
        if self.cohort_call is None:
            for i in good:
                self._tasks[i].reply = self._call(self._tasks[i])
        elif good:
            ahead = [i for i, t in self._tasks.items() if t.lost is None and t.reply is None]
            tasks = [self._tasks[i] for i in ahead]
            replies = self.cohort_call([t.message for t in tasks], [t.client for t in tasks], [t.task for t in tasks])
            for task, reply in zip(tasks, replies, strict=True):
                task.reply = reply
        self.counts["replies"] += len(good)

    def _call(self, task: _Task) -> Message:
        """Run the ClientApp as Flower does: an exception becomes an error reply."""
        message = task.message
        with seeded(key(self.seed, "flower_client", task.client, task.task)):
            try:
                return self.client_app(message, self._contexts[task.client])
            except Exception as error:
                logger.exception("the ClientApp of node %d raised", task.client + 1)
                self.counts["failed"] += 1
                return self._error(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error).__name__}: {error}")

    def _error(self, message: Message, code: int, reason: str | None) -> Message:
        return Message(Error(code, reason), reply_to=message)


def _take_identity() -> None:
    """Give this process the identity that Flower's messages ask for, unless it is a real Flower task."""
    for name in ("run_id", "node_id", "task_id"):
        if getattr(TaskIdentity, f"_{name}") is None:
            setattr(TaskIdentity, name, 1)


def content_bytes(content: RecordDict) -> int:
    """Bytes of the arrays in a record."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())


def _as_sent(message: Message) -> Message:
    """The message with records of its own: strategies send one content to many nodes, and change it for the next."""
    content = RecordDict({name: record.copy() for name, record in message.content.items()})
    return Message(content, metadata=message.metadata)  # type: ignore[call-overload,no-any-return]


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """torch's, NumPy's and Python's global generators seeded inside the block, and put back after it."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed formats the call stack for every kind of accelerator, and this runs once a task.
        seed_torch = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
        seed_torch(number & 0x7FFF_FFFF_FFFF_FFFF)
        np.random.seed(number & 0xFFFF_FFFF)
        random.seed(number)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
