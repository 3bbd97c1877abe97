"""When an exchange closes: which replies the next step takes, and what happens to the rest."""

from __future__ import annotations

from fedopt.protocol import Cancel, Collect, Command, Timer
from fedopt.server.core import Core
from fedopt.types import Count, Deadline, Every, Ticks


def maybe_close(core: Core, now: Ticks) -> list[Command]:
    """Close the exchange if the replies that are in, or the end of all work, say so."""
    close, state = core.close_rule(), core.state
    enough = isinstance(close, Count) and len(state.buffer) >= close.k
    if isinstance(close, Deadline) and close.k is not None:
        enough = len(state.buffer) >= close.k
    if enough:
        cancel = isinstance(close, Deadline) or (isinstance(close, Count) and close.cancel)
        return [*(_drop_the_rest(core, "rejected") if cancel else []), *begin_step(core, now)]
    everybody = state.exchange.pacing == "round" and not state.in_flight
    return begin_step(core, now) if everybody and not isinstance(close, Every) else []


def _drop_the_rest(core: Core, status: str) -> list[Command]:
    """Cancel what is still in flight: over-selected, or past the deadline."""
    state = core.state
    commands: list[Command] = []
    for dispatch_id in sorted(state.in_flight):
        flight = core.leave(dispatch_id)
        assert flight is not None
        state.lost_since_step += status == "lost"
        commands += [Cancel(dispatch_id), core.outcome(flight, status, 0.0)]
    return commands


def timer(core: Core, event: Timer) -> list[Command]:
    """A tick or a deadline of the current exchange; timers of earlier ones mean nothing."""
    if event.tag != core.state.timer_tag:
        return []
    close = core.close_rule()
    if isinstance(close, Deadline):
        return [*_drop_the_rest(core, "lost"), *begin_step(core, event.time)]
    return begin_step(core, event.time)


def begin_step(core: Core, now: Ticks) -> list[Command]:
    """Ask for the replies of the next step; ``stepping.collected`` goes on when they are there."""
    state, close = core.state, core.close_rule()
    if core.limits.time is not None and now > core.limits.time:
        return [core.finish("finished", "the time limit is reached")]
    taken = state.buffer[: close.k] if isinstance(close, Count) else list(state.buffer)
    state.buffer = state.buffer[len(taken) :]
    flights = sorted((state.take(d, admitted=True) for d in taken), key=lambda f: (f.client, f.dispatch_id))
    core.pending = flights
    return [Collect(tuple(map(core.meta, flights)), tuple(f.weight for f in flights))]
