"""The server step: reduce, release, step, count, and what comes next."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from fedopt.privacy.base import own_mean
from fedopt.protocol import Collected, Command, Stepped
from fedopt.server.admission import readmit
from fedopt.server.closing import begin_step
from fedopt.server.core import Core
from fedopt.server.dispatching import open_cohort
from fedopt.server.state import InFlight, ServerState
from fedopt.types import Count, Exchange, Ticks


def collected(core: Core, event: Collected) -> list[Command]:
    """Make the server step with the replies that were asked for."""
    assert core.pending is not None, "Collected without Collect"
    flights, core.pending = core.pending, None
    state, now = core.state, event.time
    reduced = core.method.reduce(state.method, event.batch, core.public)
    facts: dict[str, Any] = {}
    if core.mechanism is None:
        released = {name: value for name, (value, _) in reduced.items()}
    else:
        assert core.noise is not None
        for part in core.mechanism.own_parts:
            bound = core.mechanism.bound(part, state.mechanism, core.public)
            reduced[part] = own_mean(event.batch, part, bound, state.method.params, core.public)
        release = core.mechanism.release(
            reduced, len(event.batch.metas), state.step + 1, state.mechanism, core.noise, core.public
        )
        released, state.mechanism, facts = release.values, release.state, release.facts
        if not core.mechanism.paid_on_arrival:
            state.tally.record(release.events, [flight.client for flight in flights])
    outcome = core.method.step(state.method, released, core.public)
    state.method = outcome.state
    commands = _count_step(core, flights, event, facts, outcome.new_version, now)
    in_use = {state.version, *(f.version for f in (*state.in_flight.values(), *state.arrived.values()))}
    state.method = core.method.forget(state.method, in_use)
    return [*commands, *_go_on(core, outcome.exchange, flights, event.failed, now)]


def _count_step(
    core: Core, flights: list[InFlight], event: Collected, facts: dict[str, Any], new_version: bool, now: Ticks
) -> list[Command]:
    state = core.state
    staleness = [state.version - f.version for f in flights]
    state.step += 1
    state.paid_since_step.clear()
    state.queries += event.queries
    commands: list[Command] = []
    for flight in flights:
        failed = flight.dispatch_id in event.failed
        outcome = core.outcome(flight, "failed" if failed else "admitted", 0.0 if failed else flight.weight)
        outcome.row["queries"] = event.queries_of.get(flight.dispatch_id)
        commands.append(outcome)
        state.lost_since_step += failed
        _count_reply(state, flight, failed)
    state.version += new_version
    row = {
        "step": state.step,
        "phase": state.exchange.phase,
        "time_s": now / core.ticks_per_second,
        "participants": len(event.batch.metas),
        "lost": state.lost_since_step,
        "staleness_mean": float(np.mean(staleness)) if staleness else 0.0,
        "staleness_max": max(staleness, default=0),
        "buffer_size": len(flights),
        "uplink_bytes": state.uplink_bytes,
        "downlink_bytes": state.downlink_bytes,
        "queries": state.queries,
        **facts,
    }
    state.lost_since_step = 0
    return [*commands, Stepped(state.step, new_version, row)]


def _count_reply(state: ServerState, flight: InFlight, failed: bool) -> None:
    # A failed reply still counts as taking part: nobody may be released more often because it failed.
    state.participations[flight.client] = state.participations.get(flight.client, 0) + 1
    if failed:  # it moved nothing, so the weights by gap and frequency must make up for it
        return
    state.contributions[flight.client] = state.contributions.get(flight.client, 0) + 1
    if flight.gap:  # the steps that a second reply of one step counts as 0 were those of the first
        state.last_contribution[flight.client] = state.step


def _go_on(
    core: Core, exchange: Exchange | None, flights: list[InFlight], failed: Collection[int], now: Ticks
) -> list[Command]:
    """After a step: end the run, start the second exchange, or go on."""
    state, limits = core.state, core.limits
    previous = state.exchange
    state.exchange = exchange or core.method.plan(state.method, core.public)
    state.timer_tag += 1
    if limits.server_steps is not None and state.step >= limits.server_steps and exchange is None:
        within = (
            f": {limits.server_steps} end within a round, which was finished"
            if state.step > limits.server_steps
            else ""
        )
        return [core.finish("finished", f"{state.step} server steps were made{within}")]
    stopped = core.over_budget()
    if stopped:
        return [stopped]
    if previous.pacing == "stream" and previous.restart == "at_step":
        state.slots.extend(f.client for f in flights)
    commands = readmit(core, now)
    if state.exchange.pacing == "round":
        if state.exchange.cohort == "same":
            # Who failed has no state of this round to go on from.
            members = [f.client for f in flights if f.dispatch_id not in failed]
            return [*commands, *open_cohort(core, members, now)]
        state.cohort = []
    state.opened = now
    return [*commands, *core.timers(now), *_maybe_close_again(core, now)]


def _maybe_close_again(core: Core, now: Ticks) -> list[Command]:
    """Replies that were held or left over may already fill the next buffer."""
    close = core.close_rule()
    full = isinstance(close, Count) and core.state.exchange.pacing == "stream" and len(core.state.buffer) >= close.k
    return begin_step(core, now) if full else []
