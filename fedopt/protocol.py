"""Events and commands between the server and whoever drives it: the virtual clock or Flower's grid."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from fedopt.types import Message, ReplyBatch, ReplyMeta, Ticks

if TYPE_CHECKING:
    from fedopt.sampling.base import Ready

NOT_FINITE = "NaN or infinite"  # in the message about every reply that fails for its values


class Started(NamedTuple):
    """The run begins."""

    time: Ticks
    ready: Ready


class Arrived(NamedTuple):
    """A reply is at the server. Its values are asked for later, by ``Collect``."""

    time: Ticks
    dispatch_id: int


class Lost(NamedTuple):
    """A dispatch will never be answered."""

    time: Ticks
    dispatch_id: int
    reason: str


class Late(NamedTuple):
    """A reply to a dispatch that is closed already; its values are never used. Only deployments know such replies.

    Args:
        flight: the dispatch, as the server described it when it was sent.
        duplicate: whether another reply to it came before; else it came after its deadline.
    """

    time: Ticks
    flight: Any
    duplicate: bool


class Timer(NamedTuple):
    """A time asked for by ``SetTimer`` has come."""

    time: Ticks
    tag: int


class Settled(NamedTuple):
    """Everything that happened at this instant has been told: waiting dispatches may go out."""

    time: Ticks
    ready: Ready


class Collected(NamedTuple):
    """Answer to ``Collect``: the values of the surviving replies, and which ones failed and why.

    ``queries`` counts the function values behind all of them, ``queries_of`` those of each dispatch that had any.
    """

    time: Ticks
    batch: ReplyBatch
    failed: dict[int, str]
    queries: int = 0
    queries_of: Mapping[int, int] = MappingProxyType({})


Event = Started | Arrived | Lost | Late | Timer | Settled | Collected


class Dispatch(NamedTuple):
    """Send work to a client."""

    dispatch_id: int
    client: int
    task: int  # how many tasks this client was given before
    version: int
    phase: str
    message: Message


class Cancel(NamedTuple):
    """The reply to this dispatch is no longer wanted."""

    dispatch_id: int


class Collect(NamedTuple):
    """Compute or fetch these replies; answer with ``Collected`` before any other event."""

    metas: tuple[ReplyMeta, ...]
    weights: tuple[float, ...]


class SetTimer(NamedTuple):
    """Send ``Timer(tag)`` at this time."""

    at: Ticks
    tag: int


class Wake(NamedTuple):
    """Nobody is ready: send ``Settled`` again when somebody may be."""


class Stepped(NamedTuple):
    """A server step happened.

    Args:
        step: number of the step, from 1.
        new_version: whether the model changed version.
        row: the columns of ``rounds`` the server knows.
    """

    step: int
    new_version: bool
    row: dict[str, Any]


class Outcome(NamedTuple):
    """One row of ``updates``."""

    row: dict[str, Any]


class Finished(NamedTuple):
    """The run is over.

    Args:
        status: finished, stopped (max_epsilon, participations), diverged or failed.
        reason: one sentence.
    """

    status: str
    reason: str


Command = Dispatch | Cancel | Collect | SetTimer | Wake | Stepped | Outcome | Finished
