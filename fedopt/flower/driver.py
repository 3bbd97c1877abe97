"""The event loop of a deployment: the same server as in simulation, over Flower's grid, on the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

from fedopt.flower.federation import ConnectedNow, Federation
from fedopt.flower.grid_state import GridState, Pace
from fedopt.flower.orders import order
from fedopt.flower.replies import Received, Templates, collect, received, told_reason
from fedopt.flower.under_way import Sent, UnderWay
from fedopt.flower.wire import num_bytes
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
from fedopt.simulation.assembly import Parts
from fedopt.simulation.hooks import Hooks
from fedopt.simulation.pending import no_longer_uncollected
from fedopt.types import Ticks


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

    Guarantees: a reply is used at most once; a checkpoint is written before anything is sent or a step is shown, so
    nothing that left this machine or that anybody saw is unknown to it; tasks without an answer are paid for where
    clients pay for their own replies.
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
        self.federation, self.pace = federation, pace
        self._clock, self._sleep, self.on_timing = clock, sleep, on_timing
        self.state = GridState()
        self._templates = Templates(parts)
        self._outbox: list[Sent] = []
        self._under_way = UnderWay(grid)
        self._unseen_step = False
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
        if self.state.finished is None:
            self._begin()
        while self.state.finished is None:
            self.federation.refresh()
            if not self._instant():
                self._wait()
        self._pay_for_the_rest()
        self._commit()
        return self.state.finished

    def _begin(self) -> None:
        resumed, self.state.started = self.state.started, True
        if resumed:
            self._give_up_on_the_past()
        else:
            self._tell(Started(self._now(), ConnectedNow(self.federation)))
        self._settle()

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
            if self.state.finished is None:
                self._tell(event)
                if self.server.state.exchange.dispatch == "per_upload" and isinstance(event, Arrived):
                    self._settle()
        self._settle()
        return bool(events)

    def _settle(self) -> None:
        """Let waiting dispatches out; again while steps happen without any reply."""
        while self.state.finished is None:
            before = self.server.state.step
            self._tell(Settled(self._now(), ConnectedNow(self.federation)))
            if self.server.state.step == before:
                self._commit()
                return

    def _commit(self) -> None:
        """Write down, then show, then send: in this order, or a restart could release one step twice, unpaid."""
        if self._outbox or self._unseen_step or self.state.finished is not None:
            self.hooks.save_checkpoint()
        self._unseen_step = False
        self.hooks.publish()
        if self._outbox and self.state.finished is None:
            self._send()

    def _wait(self) -> None:
        busy = bool(self.server.state.in_flight) or self.state.timer is not None
        if busy:
            self._quiet_since = self._clock()
        elif self._clock() - self._quiet_since > self.pace.idle_s:
            self.state.finished = Finished(
                "failed", f"no node was ready for {self.pace.idle_s:g} s; are the SuperNodes running?"
            )
        self._sleep(self.pace.poll_s)

    # ---- what has happened -------------------------------------------------------------------------------------

    def _replies(self) -> list[Event]:
        """Arrivals and errors since the last look."""
        return [event for sent, message in self._under_way.pull() for event in self._reply(sent, message)]

    def _reply(self, sent: Sent, message: Message) -> list[Event]:
        now, dispatch = self._now(), sent.dispatch
        if message.has_error():
            sent.failed = True
            return self._lost(sent, told_reason(message), now)
        duplicate, sent.answered = sent.answered, True
        if duplicate or not sent.open:
            return [Late(now, sent.flight, duplicate)]
        sent.open = False
        reply = received(message, dispatch, sent.node, sent.expected)
        if reply.problem is None:  # else the step that would use it says so
            sent.flight.uplink_bytes = reply.num_bytes
            self._time(sent, reply, now)
        self.state.kept[dispatch.dispatch_id] = reply
        self.state.uncollected.setdefault(dispatch.client, []).append(dispatch.dispatch_id)
        return [Arrived(now, dispatch.dispatch_id)]

    def _lost(self, sent: Sent, reason: str, now: Ticks) -> list[Event]:
        """There will be no reply that could be used; it may have left the client all the same, so it is paid for."""
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
        latest = self._now() - self.parts.clock.ticks(self.pace.reply_s)
        events: list[Event] = []
        for sent in self._under_way:
            over = sent.at < latest
            if sent.open and (over or not self.federation.is_connected(sent.node)):
                why = f"no answer within {self.pace.reply_s:g} s" if over else "its node left"
                events += self._lost(sent, why, self._now())
        self._under_way.forget_before(latest)
        return events

    def _give_up_on_the_past(self) -> None:
        """After a restart: what was under way may have been answered, so it is paid for, and lost."""
        for dispatch_id, flight in sorted(self.server.state.in_flight.items()):
            self.server.charge(flight)
            self._tell(Lost(self._now(), dispatch_id, "the server was restarted"))

    def _pay_for_the_rest(self) -> None:
        """At the end: replies that are on the way, or came in the same look as the one that ended the run."""
        for sent in self._under_way:
            self.server.charge(sent.flight)

    # ---- carrying out ------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        commands = self.server.on(event)
        while commands:
            answer: list[Command] = []
            for command in commands:
                if self.state.finished is not None:
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
            no_longer_uncollected(self.state.uncollected, meta.client, meta.dispatch_id)
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
                self._unseen_step = True
                reason = self.hooks.on_step(command, self._metrics)
                if reason is not None:
                    self.state.finished = Finished(*reason.split(":", 1))
            case Finished():
                self.state.finished = command

    def _cancel(self, dispatch_id: int) -> None:
        self.state.kept.pop(dispatch_id, None)
        for client in [each for each, ids in self.state.uncollected.items() if dispatch_id in ids]:
            no_longer_uncollected(self.state.uncollected, client, dispatch_id)
        self._outbox = [sent for sent in self._outbox if sent.dispatch.dispatch_id != dispatch_id]
        sent = self._under_way.of(dispatch_id)
        if sent is not None:
            sent.open = False
            if not sent.answered:  # its reply may be on the way, and is forgotten if the server is restarted
                self.server.charge(sent.flight)

    def _dispatch(self, command: Dispatch) -> None:
        node = self.federation.node_of(command.client)
        assert node is not None, "a client was asked whose node is away"
        expected = self._templates.of(command, self.server.state.step + 1)
        flight, travels = self.server.state.in_flight[command.dispatch_id], num_bytes(command.message.parts)
        # A client of Flower keeps no model, so the scalar methods send it whole: what travels is what is counted.
        self.server.state.downlink_bytes += travels - flight.downlink_bytes
        flight.downlink_bytes = travels
        self._outbox.append(Sent(command, flight, node, expected, self.state.now))

    def _send(self) -> None:
        outbox, self._outbox = self._outbox, []
        messages = [order(sent, self.parts, self.state, self.pace) for sent in outbox]
        for sent in self._under_way.push(outbox, messages, self._now()):
            self._tell(Lost(self._now(), sent.dispatch.dispatch_id, "the SuperLink did not take the message"))
