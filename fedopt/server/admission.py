"""What becomes of a reply or a loss: used, held for a later release, rejected, and paid for."""

from __future__ import annotations

from dataclasses import replace

from fedopt.aggregators.base import HOLD, REJECT
from fedopt.protocol import Arrived, Cancel, Command, Late, Lost, Outcome
from fedopt.server.closing import maybe_close
from fedopt.server.core import Core
from fedopt.server.state import InFlight
from fedopt.types import Ticks


def arrived(core: Core, event: Arrived) -> list[Command]:
    """A reply is in; one whose dispatch is closed already changes nothing."""
    state = core.state
    flight = core.leave(event.dispatch_id)
    if flight is None:
        return []
    flight.arrived = event.time
    state.uplink_bytes += flight.uplink_bytes
    charge(core, flight, used=True)
    commands = _admit(core, flight, event.time)
    if flight.client in state.paid_since_step and event.dispatch_id not in state.arrived:
        # Rejected, but paid for: the client may start again, so what it can afford is asked again.
        state.paid_since_step.discard(flight.client)
        stopped = core.over_budget()
        if stopped:
            return [*commands, stopped]
    if core.immediately():
        core.free(flight.client)
    return [*commands, *maybe_close(core, event.time)]


def charge(core: Core, flight: InFlight, used: bool = False) -> None:
    """Let a client that protects its own replies pay for one; paying twice for one dispatch is not possible.

    Args:
        flight: the dispatch.
        used: whether the reply goes to the aggregator, whose release may then be what is paid for.

    It has paid once its reply is out, whatever becomes of it. A deployment also charges dispatches without an
    answer: their replies may have left the client.
    """
    if flight.charged:
        return
    flight.charged = True
    state = core.state
    steps = state.tally.local_steps
    steps[flight.client] = steps.get(flight.client, 0) + flight.local_steps
    mechanism = core.mechanism
    if mechanism is not None and (mechanism.paid_on_arrival or (mechanism.unused_is_paid and not used)):
        state.tally.record(mechanism.reply_events(state.mechanism, core.public), [flight.client])
    if mechanism is not None and (mechanism.paid_on_arrival or mechanism.client_ledgers):
        state.paid[flight.client] = state.paid.get(flight.client, 0) + 1
        state.paid_since_step.add(flight.client)


def late(core: Core, event: Late) -> list[Command]:
    """A second reply to a dispatch, or one after its deadline: written down and paid for, never used."""
    flight = event.flight
    charge(core, flight)
    core.state.uplink_bytes += flight.uplink_bytes
    row = replace(flight, arrived=event.time, downlink_bytes=0)  # sending it was counted in its first row
    return [core.outcome(row, "duplicate", 0.0) if event.duplicate else _rejected(core, row)]


def lost(core: Core, event: Lost) -> list[Command]:
    """A dispatch will never be answered; its slot is free again."""
    state = core.state
    flight = core.leave(event.dispatch_id)
    if flight is None:
        return []
    state.lost_since_step += 1
    flight.arrived = event.time
    core.free(flight.client)
    return [core.outcome(flight, "lost", 0.0), *maybe_close(core, event.time)]


def _admit(core: Core, flight: InFlight, now: Ticks) -> list[Command]:
    """Put a reply into the buffer, hold it for a later release, or reject it."""
    state = core.state
    meta = core.meta(flight)
    admission = HOLD if core.moves_twice(flight) else core.method.admit(state.method, meta, core.public)
    if admission == REJECT:
        if not core.immediately():
            core.free(flight.client)
        return [Cancel(flight.dispatch_id), _rejected(core, flight)]
    state.put(flight, admitted=admission != HOLD)
    if admission == HOLD:
        return [core.outcome(flight, "held", 0.0)]
    assert not isinstance(admission, str)
    flight.weight, flight.gap = float(admission), meta.gap
    return []


def _rejected(core: Core, flight: InFlight) -> Outcome:
    """The row of a reply that came in vain; its client has asked for its function values all the same."""
    outcome = core.outcome(flight, "rejected", 0.0)
    if flight.queries:
        core.state.queries += flight.queries
        outcome.row["queries"] = flight.queries
    return outcome


def readmit(core: Core, now: Ticks) -> list[Command]:
    """Decide again about replies that were held for a later release."""
    state = core.state
    held, state.held = state.held, []
    commands: list[Command] = []
    for dispatch_id in held:
        flight = state.take(dispatch_id, admitted=False)
        before = len(state.held)
        outcomes = _admit(core, flight, now)
        commands += [] if len(state.held) > before else outcomes  # still held: it has its row already
        flight.uplink_bytes = flight.downlink_bytes = 0  # counted in the row that said held
    return commands
