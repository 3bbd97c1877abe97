"""The event loop: pops events from a heap, tells the server, carries out its commands."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedopt.protocol import (
    Arrived,
    Cancel,
    Collect,
    Command,
    Dispatch,
    Event,
    Finished,
    Lost,
    Outcome,
    SetTimer,
    Settled,
    Started,
    Stepped,
    Timer,
    Wake,
)
from fedopt.server import Server
from fedopt.simulation.computation import Computation
from fedopt.simulation.fleet import DeviceClock, ReadyNow
from fedopt.types import Ticks

ARRIVAL, TIMER, WAKE = 0, 1, 2


@dataclass
class SimulatorState:
    """What a checkpoint holds besides the server and the computation."""

    now: Ticks = 0
    heap: list[tuple[Ticks, int, int, int, Event | None]] = field(default_factory=list)
    sequence: int = 0
    started: bool = False
    wake_at: Ticks | None = None


class Simulator:
    """Drives a server on the virtual clock.

    Args:
        server: the server.
        computation: lazy client work.
        clock: devices.
        batch_size_of: ``num_examples -> batch size`` for the compute model.
        on_step: called with (row, simulator-only metrics) after every server step.
        on_outcome: called with every row of ``updates``.
        on_failure: called with a message when client work failed.
        after_instant: called when an instant is complete, the only moment at which a checkpoint is consistent.
    """

    def __init__(
        self,
        server: Server,
        computation: Computation,
        clock: DeviceClock,
        batch_size_of: Callable[[int], int],
        on_step: Callable[[Stepped, dict[str, float]], str | None],
        on_outcome: Callable[[dict[str, Any]], None],
        on_failure: Callable[[str], None] = lambda message: None,
        after_instant: Callable[[], None] = lambda: None,
    ):
        self.server, self.computation, self.clock = server, computation, clock
        self.batch_size_of, self.on_step, self.on_outcome = batch_size_of, on_step, on_outcome
        self.on_failure, self.after_instant = on_failure, after_instant
        self.state = SimulatorState()
        self.finished: Finished | None = None
        self._metrics: dict[str, float] = {}

    def run(self) -> Finished:
        """Run to the end.

        Returns:
            Why it ended.
        """
        if not self.state.started:
            self.state.started = True
            self._tell(Started(0, ReadyNow(self.clock, 0)))
            self._settle()
        while self.finished is None:
            if not self.state.heap:
                self.finished = Finished("failed", "nothing is in flight and nobody will ever be ready; check devices")
                break
            self._instant()
        return self.finished

    def _instant(self) -> None:
        """All events of the next instant, then the dispatches that waited for it."""
        heap, state = self.state.heap, self.state
        state.now = heap[0][0]
        while heap and heap[0][0] == state.now and self.finished is None:
            _, kind, _, _, event = heapq.heappop(heap)
            if kind == WAKE:
                state.wake_at = None
                continue
            assert event is not None
            if isinstance(event, Arrived):
                self.computation.arrived(event.dispatch_id)
            self._tell(event)
            if self.server.state.exchange.dispatch == "per_upload" and isinstance(event, Arrived):
                self._settle()
        self._settle()
        self.after_instant()

    def _settle(self) -> None:
        """Let waiting dispatches out; again while steps happen without any reply (empty cohorts)."""
        while self.finished is None:
            before = self.server.state.step
            self._tell(Settled(self.state.now, ReadyNow(self.clock, self.state.now)))
            if self.server.state.step == before:
                return

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
        collected, self._metrics = self.computation.collect(
            command, self.state.now, self.server.state.step + 1, self.server.state.mechanism
        )
        for message in collected.failed.values():
            self.on_failure(message)
        return self.server.on(collected)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Dispatch():
                self._dispatch(command)
            case Cancel():
                self.computation.forget(command.dispatch_id)
            case SetTimer():
                self._push(command.at, TIMER, 0, Timer(command.at, command.tag))
            case Wake():
                self._wake()
            case Outcome():
                self.on_outcome(command.row)
            case Stepped():
                reason = self.on_step(command, self._metrics)
                if reason is not None:
                    self.finished = Finished(*reason.split(":", 1))
            case Finished():
                self.finished = command

    def _dispatch(self, command: Dispatch) -> None:
        flight = self.server.state.in_flight[command.dispatch_id]
        end, lost = self.clock.outcome(
            self.state.now,
            command.client,
            command.task,
            flight.local_steps,
            self.batch_size_of(flight.num_examples),
            flight.downlink_bytes,
            flight.uplink_bytes,
        )
        if lost is None:
            self.computation.register(command, (end, command.dispatch_id))
            self._push(end, ARRIVAL, command.client, Arrived(end, command.dispatch_id))
        else:
            self._push(end, ARRIVAL, command.client, Lost(end, command.dispatch_id, lost))

    def _push(self, at: Ticks, kind: int, client: int, event: Event | None) -> None:
        self.state.sequence += 1
        heapq.heappush(self.state.heap, (at, kind, client, self.state.sequence, event))

    def _wake(self) -> None:
        """Ask again when availability changes (arrivals ask anyway)."""
        change = self.clock.next_change(self.state.now)
        if change is not None and self.state.wake_at != change:
            self.state.wake_at = change
            self._push(change, WAKE, 0, None)
