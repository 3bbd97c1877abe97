"""The event loop of a deployment: the same server as in simulation, over Flower's grid, on the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedopt.flower.federation import ConnectedNow, Federation
from fedopt.flower.node import public_facts
from fedopt.flower.replies import Received, Templates, collect, received
from fedopt.flower.wire import PROTOCOL, Form, encode
from fedopt.protocol import (
    Arrived,
    Cancel,
    Collect,
    Command,
    Dispatch,
    Event,
    Finished,
    Late,
    Lost,
    Outcome,
    SetTimer,
    Settled,
    Started,
    Stepped,
    Timer,
    Wake,
)
from fedopt.server import InFlight
from fedopt.simulation.assembly import Parts
from fedopt.simulation.hooks import Hooks
from fedopt.types import Ticks


@dataclass(frozen=True)
class Pace:
    """How a deployment waits.

    Args:
        reply_s: seconds after which a task without an answer is lost, and its message expires.
        poll_s: seconds between two looks at the SuperLink.
        idle_s: seconds without a ready client and without work after which the run ends.
    """

    reply_s: float = 3600.0
    poll_s: float = 0.5
    idle_s: float = 300.0


@dataclass
class GridState:
    """What a checkpoint holds besides the server.

    Args:
        now: time of the last event.
        committed: client -> dispatch whose state the client goes on from.
        uncollected: client -> its last arrived dispatch that no step has taken yet.
        timer: (when, tag) of the timer that is set.
        kept: replies that no step has taken yet.
    """

    now: Ticks = 0
    committed: dict[int, int] = field(default_factory=dict)
    uncollected: dict[int, int] = field(default_factory=dict)
    timer: tuple[Ticks, int] | None = None
    started: bool = False
    kept: dict[int, Received] = field(default_factory=dict)


@dataclass
class Sent:
    """A task on its way."""

    dispatch: Dispatch
    flight: InFlight
    node: int
    expected: dict[str, Form]
    at: Ticks
    answered: bool = False
    open: bool = True


class GridDriver:
    """Drives a server over Flower.

    Args:
        parts: the assembled run.
        hooks: of the session.
        grid: Flower's grid.
        federation: who is there.
        pace: how long to wait for what.
        clock: seconds, never going back; replaced in tests.
        sleep: waits; replaced in tests.
        on_timing: called with (client, task, download_s, compute_s, upload_s) of every reply.

    Guarantees: a reply is used at most once; a checkpoint is written before anything is sent, so nothing that left this
    machine is unknown to it; tasks without an answer are paid for where clients pay for their own replies.
    """

    def __init__(
        self,
        parts: Parts,
        hooks: Hooks,
        grid: Grid,
        federation: Federation,
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_timing: Callable[[int, int, float, float, float], None] = lambda *timing: None,
    ):
        self.parts, self.server, self.hooks = parts, parts.server, hooks
        self.grid, self.federation, self.pace = grid, federation, pace
        self._clock, self._sleep, self.on_timing = clock, sleep, on_timing
        self.state = GridState()
        self.finished: Finished | None = None
        self._templates = Templates(parts)
        self._outbox: list[Sent] = []
        self._sent: dict[str, Sent] = {}  # by message id; kept until the message expires
        self._by_dispatch: dict[int, Sent] = {}
        self._metrics: dict[str, float] = {}
        self._quiet_since = clock()
        self._origin = 0.0

    # ---- loop --------------------------------------------------------------------------------------------------

    def run(self) -> Finished:
        """Run to the end.

        Returns:
            Why it ended.
        """
        self._origin = self._clock() - self.state.now / self.parts.clock.ticks_per_second
        resumed = self.state.started
        self.state.started = True
        if resumed:
            self._give_up_on_the_past()
        else:
            self._tell(Started(self._now(), ConnectedNow(self.federation)))
        self._settle()
        while self.finished is None:
            self.federation.refresh()
            if not self._instant():
                self._wait()
        self._pay_for_the_unanswered()
        return self.finished

    def _now(self) -> Ticks:
        """Ticks since the start; strictly later than the last event."""
        seconds = self._clock() - self._origin
        self.state.now = max(self.state.now + 1, round(seconds * self.parts.clock.ticks_per_second))
        return self.state.now

    def _instant(self) -> bool:
        """Everything that has happened since the last look; whether anything had."""
        events = self._replies() + self._expired()
        now = self._now()
        if self.state.timer is not None and now >= self.state.timer[0]:
            (_, tag), self.state.timer = self.state.timer, None
            events.append(Timer(now, tag))
        for event in events:
            if self.finished is None:
                self._tell(event)
                if self.server.state.exchange.dispatch == "per_upload" and isinstance(event, Arrived):
                    self._settle()
        self._settle()
        return bool(events)

    def _settle(self) -> None:
        """Let waiting dispatches out; again while steps happen without any reply; then write down, then send."""
        while self.finished is None:
            before = self.server.state.step
            self._tell(Settled(self._now(), ConnectedNow(self.federation)))
            if self.server.state.step == before:
                break
        if self._outbox and self.finished is None:
            self.hooks.save_checkpoint()
            self._send()

    def _wait(self) -> None:
        busy = bool(self.server.state.in_flight) or self.state.timer is not None
        if busy:
            self._quiet_since = self._clock()
        elif self._clock() - self._quiet_since > self.pace.idle_s:
            self.finished = Finished(
                "failed", f"no node was ready for {self.pace.idle_s:g} s; are the SuperNodes running?"
            )
        self._sleep(self.pace.poll_s)

    # ---- what has happened -------------------------------------------------------------------------------------

    def _replies(self) -> list[Event]:
        """Arrivals and errors since the last look, by ascending client: their order within a look means nothing."""
        if not self._sent:
            return []
        found = list(self.grid.pull_messages(list(self._sent)))
        known = [
            (self._sent[m.metadata.reply_to_message_id], m)
            for m in found
            if m.metadata.reply_to_message_id in self._sent
        ]
        known.sort(key=lambda pair: (pair[0].dispatch.client, pair[0].dispatch.dispatch_id))
        return [event for sent, message in known for event in self._reply(sent, message)]

    def _reply(self, sent: Sent, message: Message) -> list[Event]:
        now, dispatch = self._now(), sent.dispatch
        if message.has_error():
            return self._error(sent, _told_reason(message), now)
        duplicate, sent.answered = sent.answered, True
        if duplicate or not sent.open:
            return [Late(now, sent.flight, duplicate)]
        sent.open = False
        reply = received(message, dispatch, sent.node, sent.expected)
        if reply.problem is None:  # else the step that would use it says so
            sent.flight.uplink_bytes = reply.num_bytes
            self._time(sent, reply, now)
        self.state.kept[dispatch.dispatch_id] = reply
        self.state.uncollected[dispatch.client] = dispatch.dispatch_id
        return [Arrived(now, dispatch.dispatch_id)]

    def _error(self, sent: Sent, reason: str, now: Ticks) -> list[Event]:
        if sent.answered or not sent.open:
            return []
        sent.open = False
        client = sent.dispatch.client
        self.hooks.on_failure(f"client {client}, version {sent.dispatch.version}: no reply: {reason}")
        self.server.charge(sent.flight)
        return [Lost(now, sent.dispatch.dispatch_id, reason)]

    def _time(self, sent: Sent, reply: Received, now: Ticks) -> None:
        """Split the time between sending and hearing into download, work and upload."""
        total = (now - sent.at) / self.parts.clock.ticks_per_second
        work = min(reply.seconds, total) if reply.seconds is not None else total
        rest = total - work
        self.on_timing(sent.dispatch.client, sent.dispatch.task, rest / 2, work, rest / 2)

    def _expired(self) -> list[Event]:
        """Tasks whose time is over or whose node is gone; messages are forgotten once they have expired."""
        limit = self.parts.clock.ticks(self.pace.reply_s)
        events: list[Event] = []
        for message_id, sent in list(self._sent.items()):
            over = self._now() - sent.at > limit
            gone = not self.federation.is_connected(sent.node)
            if sent.open and (over or gone):
                why = f"no answer within {self.pace.reply_s:g} s" if over else "its node left"
                events += self._error(sent, why, self._now())
            elif over and not sent.answered:
                self.server.charge(sent.flight)
            if over:
                del self._sent[message_id]
                self._by_dispatch.pop(sent.dispatch.dispatch_id, None)
        return events

    def _give_up_on_the_past(self) -> None:
        """After a restart: what was under way may have been answered, so it is paid for, and lost."""
        for dispatch_id, flight in sorted(self.server.state.in_flight.items()):
            self.server.charge(flight)
            self._tell(Lost(self._now(), dispatch_id, "the server was restarted"))

    def _pay_for_the_unanswered(self) -> None:
        for flight in self.server.state.in_flight.values():
            self.server.charge(flight)
        for sent in self._sent.values():
            if not sent.answered:
                self.server.charge(sent.flight)

    # ---- carrying out ------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        commands = self.server.on(event)
        while commands:
            answer: list[Command] = []
            for command in commands:
                if self.finished is not None:
                    return
                if isinstance(command, Collect):
                    answer = self._collect(command)
                else:
                    self._carry_out(command)
            commands = answer

    def _collect(self, command: Collect) -> list[Command]:
        collected, self._metrics = collect(self.parts, self.state.kept, command, self.state.now)
        for meta in command.metas:
            if meta.dispatch_id not in collected.failed:
                self.state.committed[meta.client] = meta.dispatch_id
            if self.state.uncollected.get(meta.client) == meta.dispatch_id:
                del self.state.uncollected[meta.client]
        for message in collected.failed.values():
            self.hooks.on_failure(message)
        return self.server.on(collected)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Dispatch():
                self._dispatch(command)
            case Cancel():
                self._cancel(command.dispatch_id)
            case SetTimer():
                self.state.timer = (command.at, command.tag)
            case Wake():
                pass  # the loop asks again by itself
            case Outcome():
                self.hooks.on_outcome(command.row)
            case Stepped():
                reason = self.hooks.on_step(command, self._metrics)
                if reason is not None:
                    self.finished = Finished(*reason.split(":", 1))
            case Finished():
                self.finished = command

    def _cancel(self, dispatch_id: int) -> None:
        self.state.kept.pop(dispatch_id, None)
        if dispatch_id in self._by_dispatch:
            sent = self._by_dispatch[dispatch_id]
            sent.open = False
            if not sent.answered:  # its reply may be on the way, and is forgotten if the server is restarted
                self.server.charge(sent.flight)

    def _dispatch(self, command: Dispatch) -> None:
        node = self.federation.node_of(command.client)
        assert node is not None, "a client was asked whose node is away"
        expected = self._templates.of(command, self.server.state.step + 1)
        flight = self.server.state.in_flight[command.dispatch_id]
        sent = Sent(command, flight, node, expected, self.state.now)
        self._outbox.append(sent)
        self._by_dispatch[command.dispatch_id] = sent

    def _send(self) -> None:
        outbox, self._outbox = self._outbox, []
        ids = list(self.grid.push_messages([self._message(sent) for sent in outbox]))
        now = self._now()
        for message_id, sent in zip(ids or [None] * len(outbox), outbox, strict=True):  # type: ignore[list-item]
            sent.at = now
            if message_id is None:
                self._tell(Lost(now, sent.dispatch.dispatch_id, "the SuperLink did not take the message"))
            else:
                self._sent[message_id] = sent

    def _message(self, sent: Sent) -> Message:
        dispatch, server = sent.dispatch, self.server
        facts: dict[str, Any] = {
            "protocol": PROTOCOL,
            "dispatch": dispatch.dispatch_id,
            "client": dispatch.client,
            "task": dispatch.task,
            "version": dispatch.version,
            "phase": dispatch.phase,
            "step": server.state.step + 1,
            "seed": self.parts.scenario.seed,
            "public": public_facts(server.public),
            "config": dict(dispatch.message.config),
            "state_from": self.state.uncollected.get(dispatch.client, self.state.committed.get(dispatch.client)),
            "mechanism": _told(server.state.mechanism),
        }
        content = encode(dispatch.message.parts, facts)
        return Message(content, sent.node, "train", ttl=self.pace.reply_s, group_id=str(server.state.step + 1))


def _told_reason(message: Message) -> str:
    """Why there is no reply: our nodes' own words, and Flower's, but not the text of a foreign exception.

    An exception that passes by our ClientApp is quoted by Flower, and may quote data.
    """
    code, reason = message.error.code, message.error.reason
    if code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION or not reason:
        return f"the client app raised an exception (Flower's error {code}); see the log of its node"
    return reason


def _told(state: Any) -> dict[str, float]:
    """What clients must know of the mechanism's state: the clipping norm where it moves, never anything secret."""
    norm = getattr(state, "clipping_norm", None)
    return {"clipping_norm": float(norm)} if norm is not None else {}
