"""Tasks on their way: sent, waited for, recognised when they come back, forgotten when their messages expire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fedopt.flower.wire import Form
from fedopt.protocol import Dispatch
from fedopt.server import InFlight
from fedopt.types import Ticks


@dataclass
class Sent:
    """A task on its way.

    Args:
        dispatch, flight: as the server described it.
        node: who was asked.
        expected: forms of the parts of its reply.
        at: when it was sent.
        open: whether its reply would still be used.
        answered: whether the client's reply has come.
        failed: whether Flower or the node said that there will be none.
    """

    dispatch: Dispatch
    flight: InFlight
    node: int
    expected: dict[str, Form]
    at: Ticks
    open: bool = True
    answered: bool = False
    failed: bool = False


class UnderWay:
    """Everything that was sent and has not expired, by message and by dispatch.

    Args:
        grid: Flower's grid.

    Guarantees: asks only for replies that can still come (a SuperLink answers every other question with a new error
    message); recognises a second reply to the same message.
    """

    def __init__(self, grid: Grid):
        self._grid = grid
        self._by_message: dict[str, Sent] = {}
        self._by_dispatch: dict[int, Sent] = {}

    def __iter__(self) -> Iterator[Sent]:
        return iter(list(self._by_message.values()))

    def of(self, dispatch_id: int) -> Sent | None:
        """The task of a dispatch, unless it has expired."""
        return self._by_dispatch.get(dispatch_id)

    def push(self, tasks: list[Sent], messages: list[Message], now: Ticks) -> list[Sent]:
        """Send messages, one per task.

        Returns:
            The tasks whose messages the SuperLink did not take.
        """
        ids = list(self._grid.push_messages(messages)) or [None] * len(tasks)  # type: ignore[list-item]
        for message_id, sent in zip(ids, tasks, strict=True):
            if message_id is not None:
                sent.at = now
                self._by_message[message_id] = self._by_dispatch[sent.dispatch.dispatch_id] = sent
        return [sent for message_id, sent in zip(ids, tasks, strict=True) if message_id is None]

    def pull(self) -> list[tuple[Sent, Message]]:
        """What has come since the last look, by ascending client: the order within a look means nothing."""
        wanted = [i for i, sent in self._by_message.items() if not sent.answered and not sent.failed]
        if not wanted:
            return []
        replies = [(self._by_message.get(m.metadata.reply_to_message_id), m) for m in self._grid.pull_messages(wanted)]
        known = [(sent, message) for sent, message in replies if sent is not None]
        return sorted(known, key=lambda pair: (pair[0].dispatch.client, pair[0].dispatch.dispatch_id))

    def forget_before(self, time: Ticks) -> None:
        """Forget what was sent before a time: no reply to it can come any more."""
        self._by_message = {i: sent for i, sent in self._by_message.items() if sent.at >= time}
        self._by_dispatch = {sent.dispatch.dispatch_id: sent for sent in self._by_message.values()}
