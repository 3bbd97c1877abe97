"""How a deployment waits, and what its checkpoint holds besides the server."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedopt.flower.replies import Received
from fedopt.protocol import Finished
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
        uncollected: client -> its arrived dispatches that no step has taken yet, in order.
        timer: (when, tag) of the timer that is set.
        started: whether the run has begun.
        kept: replies that no step has taken yet.
        finished: why the run ended, once it has.
    """

    now: Ticks = 0
    committed: dict[int, int] = field(default_factory=dict)
    uncollected: dict[int, list[int]] = field(default_factory=dict)
    timer: tuple[Ticks, int] | None = None
    started: bool = False
    kept: dict[int, Received] = field(default_factory=dict)
    finished: Finished | None = None
