"""Who starts working now: streams are refilled, rounds drawn and opened."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fedopt.protocol import Command, Dispatch, Finished, SetTimer, Wake
from fedopt.sampling.base import Ready
from fedopt.server.closing import begin_step
from fedopt.server.core import Core
from fedopt.server.selection import Selectable
from fedopt.server.state import InFlight
from fedopt.types import Deadline, Ticks


def fill(core: Core, now: Ticks, ready: Ready) -> list[Command]:
    """Start whoever should be working now."""
    state = core.state
    selectable = Selectable(ready, state, core.limits.max_participations)
    if state.exchange.pacing == "stream":
        return _fill_stream(core, now, selectable)
    if state.cohort or state.in_flight:
        return []
    return _open_round(core, now, selectable)


def _fill_stream(core: Core, now: Ticks, ready: Selectable) -> list[Command]:
    state, commands = core.state, []
    if not state.stream_started:
        state.stream_started = True
        state.slots = [-1] * core.sampler.slots(core.public.num_clients)
    remaining: list[int] = []
    for freed in state.slots:
        client = core.sampler.refill(state.refills, freed, ready, core.seed)
        if client is None:
            remaining.append(freed)
            continue
        state.refills += 1
        commands.extend(_dispatch(core, client, now))
    state.slots = remaining
    if remaining and not commands and _nobody_can_ever_come(core):
        return [_exhausted(core)]
    return [*commands, *_wait(core, now)] if remaining else commands


def _open_round(core: Core, now: Ticks, ready: Selectable) -> list[Command]:
    state = core.state
    cohort = core.sampler.draw(state.draws, ready, state.last_step, state.step, core.seed)
    if not cohort:
        if _nobody_can_ever_come(core):
            return [_exhausted(core)]
        if not ready.anybody():
            return _wait(core, now)
        cohort = _next_turn(core, ready)
    state.draws += 1
    return open_cohort(core, cohort, now)


def _next_turn(core: Core, ready: Selectable) -> list[int]:
    """The first of the sampler's next turns that somebody can take; empty where its law leaves out all who are ready.

    The empty cohort is then a step like any other: new coins fall, and a rest is over after so many steps.
    """
    state = core.state
    first = state.draws
    for index in range(first + 1, first + core.sampler.turns(core.public.num_clients)):
        cohort = core.sampler.draw(index, ready, state.last_step, state.step, core.seed)
        if cohort:
            state.draws = index
            return cohort
    return []


def _wait(core: Core, now: Ticks) -> list[Command]:
    """Ask again when somebody may be ready; past the time limit the run is over, for no step would notice."""
    limit = core.limits.time
    if limit is not None and now > limit and not core.state.in_flight:
        return [core.finish("finished", "the time limit is reached")]
    return [Wake()]


def open_cohort(core: Core, cohort: list[int], now: Ticks) -> list[Command]:
    """Start the exchange with a cohort; an empty one closes at once."""
    state = core.state
    state.cohort, state.opened = list(cohort), now
    wanted = round(core.sampler.expected_cohort(core.public.num_clients))
    state.needed = min(len(cohort), max(1, wanted))
    commands: list[Command] = []
    for client in cohort:
        commands.extend(_dispatch(core, client, now))
    close = core.close_rule()
    if isinstance(close, Deadline) and cohort:
        commands.append(SetTimer(now + core.ticks(close.seconds), state.timer_tag))
    return commands if cohort else [*commands, *begin_step(core, now)]


def _nobody_can_ever_come(core: Core) -> bool:
    """Whether the participation limit is used up by everybody and nothing is under way."""
    limit, state = core.limits.max_participations, core.state
    if limit is None or state.in_flight:
        return False
    used = Counter(state.participations)
    used.update(state.waiting)
    for client, paid in state.paid.items():
        used[client] = max(used[client], paid)
    return used.total() >= limit * core.public.num_clients


def _exhausted(core: Core) -> Finished:
    limit = core.limits.max_participations
    return core.finish("stopped", f"every client has taken part max_participations = {limit} times")


def _dispatch(core: Core, client: int, now: Ticks) -> list[Command]:
    state = core.state
    message = core.method.payload(state.method, client, state.last_version.get(client))
    message = replace(message, config={"version": state.version, **message.config})
    task = state.tasks.get(client, 0)
    examples, steps, normalizer, uplink, queries = core.work_of(client, task, message)
    message = replace(message, config={**message.config, "local_steps": steps})
    flight = InFlight(
        dispatch_id=state.next_dispatch,
        client=client,
        task=task,
        version=state.version,
        phase=state.exchange.phase,
        sent=now,
        num_examples=examples,
        local_steps=steps,
        normalizer=normalizer,
        downlink_bytes=message.num_bytes,
        uplink_bytes=uplink,
        queries=queries,
    )
    state.next_dispatch += 1
    state.tasks[client] = task + 1
    state.last_version[client], state.last_step[client] = state.version, state.step
    state.in_flight[flight.dispatch_id] = flight
    state.busy[client] = state.busy.get(client, 0) + 1
    state.downlink_bytes += message.num_bytes
    return [Dispatch(flight.dispatch_id, client, task, state.version, flight.phase, message)]
