"""What the server knows and is limited by: everything that evolves in a run, and when a run ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedopt.privacy.base import Tally
from fedopt.types import Exchange, Ticks


@dataclass(frozen=True)
class Limits:
    """When a run ends.

    Args:
        server_steps: steps to make, or None; a round of several exchanges is finished.
        time: ticks after which no further step is made, or None.
        max_participations: how often one client may contribute, or None.
    """

    server_steps: int | None = None
    time: Ticks | None = None
    max_participations: int | None = None


@dataclass
class InFlight:
    """A dispatch that has no outcome yet."""

    dispatch_id: int
    client: int
    task: int
    version: int
    phase: str
    sent: Ticks
    num_examples: int
    local_steps: int
    normalizer: float
    downlink_bytes: int
    uplink_bytes: int
    arrived: Ticks | None = None
    weight: float = 0.0
    gap: int = 0  # server steps since its client's previous contribution, as its weight counts them
    queries: int = 0  # function values its client plans to ask for
    charged: bool = False  # whether its client has paid for its own reply


@dataclass
class ServerState:
    """Everything that evolves; it is what a checkpoint holds."""

    method: Any
    mechanism: Any
    exchange: Exchange
    version: int = 0
    step: int = 0
    next_dispatch: int = 0
    draws: int = 0
    refills: int = 0
    opened: Ticks = 0
    timer_tag: int = 0
    cohort: list[int] = field(default_factory=list)  # members of the current round
    needed: int = 0  # replies a round waits for, before over-selection
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    busy: dict[int, int] = field(default_factory=dict)  # client -> dispatches in flight
    buffer: list[int] = field(default_factory=list)  # admitted, in order of arrival
    held: list[int] = field(default_factory=list)
    arrived: dict[int, InFlight] = field(default_factory=dict)  # buffer and held
    slots: list[int] = field(default_factory=list)  # freed slots of a stream, by the client that left (-1: new)
    tasks: dict[int, int] = field(default_factory=dict)  # client -> tasks given
    participations: dict[int, int] = field(default_factory=dict)  # client -> replies taken into a step, failed ones too
    contributions: dict[int, int] = field(default_factory=dict)  # client -> those of them that were used
    last_version: dict[int, int] = field(default_factory=dict)  # client -> last version received
    last_step: dict[int, int] = field(default_factory=dict)  # client -> step at which it was last started
    last_contribution: dict[int, int] = field(default_factory=dict)  # client -> step of its last used reply with a gap
    paid: dict[int, int] = field(default_factory=dict)  # client -> replies it protected itself and has paid for
    paid_since_step: set[int] = field(default_factory=set)  # clients among them since the last step
    lost_since_step: int = 0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    queries: int = 0
    stream_started: bool = False
    finished: bool = False
    tally: Tally = field(default_factory=Tally)  # what the privacy accountant needs of the releases so far
    waiting: dict[int, int] = field(default_factory=dict)  # client -> its replies in ``arrived``
    buffered: dict[int, int] = field(default_factory=dict)  # client -> its replies in ``buffer``

    def put(self, flight: InFlight, admitted: bool) -> None:
        """An arrived reply, into the buffer or held."""
        self.arrived[flight.dispatch_id] = flight
        (self.buffer if admitted else self.held).append(flight.dispatch_id)
        for counts in (self.waiting, self.buffered) if admitted else (self.waiting,):
            counts[flight.client] = counts.get(flight.client, 0) + 1

    def take(self, dispatch_id: int, admitted: bool) -> InFlight:
        """An arrived reply that the caller removes from the buffer or from the held ones."""
        flight = self.arrived.pop(dispatch_id)
        for counts in (self.waiting, self.buffered) if admitted else (self.waiting,):
            counts[flight.client] -= 1
            if not counts[flight.client]:
                del counts[flight.client]
        return flight
