"""The server, without I/O: it takes events and returns commands.

It owns no clock, no network, no thread and no global random state. The virtual-clock simulator and the Flower
adapter drive the same object. It knows only the base interfaces of methods, mechanisms and samplers.

How simultaneous things are ordered: uploads of one instant (ascending client) come before server steps caused by
timers, and those before dispatches, which wait for ``Settled`` (``dispatch: per_instant``) or follow every upload
(``dispatch: per_upload``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from fedopt.aggregators.base import HOLD, REJECT, Method
from fedopt.privacy.base import Mechanism, Noise, Tally, own_mean
from fedopt.protocol import (
    Arrived,
    Cancel,
    Collect,
    Collected,
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
from fedopt.sampling.base import Ready, Sampler
from fedopt.types import AllArrived, Close, Count, Deadline, Every, Exchange, Public, ReplyMeta, Ticks


@dataclass(frozen=True)
class Limits:
    """When a run ends.

    Args:
        server_steps: steps to make, or None.
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
    participations: dict[int, int] = field(default_factory=dict)  # client -> replies admitted and released
    last_version: dict[int, int] = field(default_factory=dict)  # client -> last version received
    last_step: dict[int, int] = field(default_factory=dict)  # client -> step at which it was last started
    last_contribution: dict[int, int] = field(default_factory=dict)  # client -> step number of its last contribution
    paid: dict[int, int] = field(default_factory=dict)  # client -> replies it protected itself and has paid for
    paid_since_step: set[int] = field(default_factory=set)  # clients among them since the last step
    lost_since_step: int = 0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    queries: int = 0
    stream_started: bool = False
    finished: bool = False
    tally: Tally = field(default_factory=Tally)  # what the privacy accountant needs of the releases so far


class _Selectable:
    """Ready clients that are idle and have participations left."""

    def __init__(self, ready: Ready, state: ServerState, limit: int | None):
        self.num_clients = ready.num_clients
        self._ready, self._state, self._limit = ready, state, limit
        self._waiting = Counter(flight.client for flight in state.arrived.values())
        exchange = state.exchange
        # A client whose reply waits for a timed step idles until then.
        self._idle_until_step = exchange.pacing == "stream" and exchange.restart == "at_step"

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        mask = np.array(self._ready.is_ready(clients), dtype=bool)
        state = self._state
        known: tuple[Collection[int], ...] = (
            state.busy, state.paid_since_step, self._waiting, state.participations, state.paid
        )  # fmt: skip
        if len(clients) <= sum(map(len, known)):
            for position in np.flatnonzero(mask):
                mask[position] = not self._is_barred(int(clients[position]))
            return mask
        # Of a large population only those that ever took part can be barred.
        barred = [client for client in set().union(*known) if self._is_barred(client)]
        return mask & ~np.isin(clients, barred) if barred else mask

    def _is_barred(self, client: int) -> bool:
        state = self._state
        idle = self._idle_until_step and self._waiting[client] > 0
        # The budget is asked at every step for one more reply of each: nobody pays twice in between.
        return client in state.busy or idle or client in state.paid_since_step or self._used_up(client)

    def _used_up(self, client: int) -> bool:
        """Whether the client's contributions, released and waiting or paid for and rejected, reach the limit."""
        if self._limit is None:
            return False
        released = self._state.participations.get(client, 0) + self._waiting[client]
        return max(released, self._state.paid.get(client, 0)) >= self._limit


class Server:
    """One federated server: method, mechanism and sampler, driven by events.

    Args:
        method: the aggregator.
        sampler: who takes part.
        public: public constants.
        params: initial parameters ``[d]``.
        limits: when to stop.
        ticks_per_second: resolution of the clock.
        seed: run seed.
        mechanism: privacy mechanism, or None.
        noise: randomness of the mechanism; required with a mechanism.
        affordable: ``(state, next_events) -> reason or None``: refuses a release that would exceed the budget.
        work_of: ``(client, task, message) -> (num_examples, local_steps, normalizer, uplink_bytes)``.
    """

    def __init__(
        self,
        method: Method,
        sampler: Sampler,
        public: Public,
        params: Any,
        limits: Limits,
        ticks_per_second: int,
        seed: int,
        work_of: Any,
        mechanism: Mechanism | None = None,
        noise: Noise | None = None,
        affordable: Any = None,
    ):
        self.method, self.sampler, self.public, self.limits = method, sampler, public, limits
        self.mechanism, self.noise, self.affordable = mechanism, noise, affordable
        self.ticks_per_second, self.seed, self.work_of = ticks_per_second, seed, work_of
        method_state = method.init(params, public)
        self.state = ServerState(
            method=method_state,
            mechanism=mechanism.init(int(params.numel()), public) if mechanism else None,
            exchange=method.plan(method_state, public),
        )
        self._pending: tuple[list[InFlight], list[Command]] | None = None

    # ---- events ------------------------------------------------------------------------------------------------

    def on(self, event: Event) -> list[Command]:
        """Handle one event.

        Returns:
            Commands in the order in which they must be carried out. A ``Collect`` is always last: the driver answers
            it with ``Collected`` before anything else.
        """
        if self.state.finished:
            return []
        match event:
            case Started():
                return self._start(event)
            case Arrived():
                return self._arrived(event)
            case Lost():
                return self._lost(event)
            case Late():
                return self._late(event)
            case Timer():
                return self._timer(event)
            case Settled():
                return self._fill(event.time, event.ready)
            case Collected():
                return self._collected(event)

    def _start(self, event: Started) -> list[Command]:
        if self.limits.server_steps == 0:
            return [self._finish("finished", "no server steps were asked for")]
        stopped = self._over_budget()
        if stopped:
            return [stopped]
        self.state.opened = event.time
        return [*self._timers(event.time), *self._fill(event.time, event.ready)]

    def _timers(self, now: Ticks) -> list[Command]:
        """The timer of the current exchange, if its close rule has one."""
        close = self._close()
        if isinstance(close, Every):
            period = self.ticks(close.seconds)
            return [SetTimer((now // period + 1) * period, self.state.timer_tag)]
        return []

    def ticks(self, seconds: Any) -> Ticks:
        """Seconds (exact if a Fraction, else the nearest tick) as ticks."""
        exact = seconds if isinstance(seconds, Fraction) else Fraction(str(seconds))
        return round(exact * self.ticks_per_second)

    def _close(self) -> Close:
        """The method's close rule, with the sampler's over-selection and deadline where the method waits for all."""
        close, state = self.state.exchange.close, self.state
        if not isinstance(close, AllArrived) or state.exchange.pacing != "round":
            return close
        over = state.needed if self.sampler.over_selection > 1 else None
        if self.sampler.deadline_s is not None:
            return Deadline(self.sampler.deadline_s, over)
        return Count(over, cancel=True) if over is not None else close

    # ---- dispatching -------------------------------------------------------------------------------------------

    def _fill(self, now: Ticks, ready: Ready) -> list[Command]:
        """Start whoever should be working now."""
        state = self.state
        selectable = _Selectable(ready, state, self.limits.max_participations)
        if state.exchange.pacing == "stream":
            return self._fill_stream(now, selectable)
        if state.cohort or state.in_flight:
            return []
        return self._open_round(now, selectable)

    def _fill_stream(self, now: Ticks, ready: _Selectable) -> list[Command]:
        state, commands = self.state, []
        if not state.stream_started:
            state.stream_started = True
            state.slots = [-1] * self.sampler.slots(self.public.num_clients)
        remaining: list[int] = []
        for freed in state.slots:
            client = self.sampler.refill(state.refills, freed, ready, self.seed)
            if client is None:
                remaining.append(freed)
                continue
            state.refills += 1
            commands.extend(self._dispatch(client, now))
        state.slots = remaining
        if remaining and not commands and self._nobody_can_ever_come():
            return [self._exhausted()]
        return [*commands, Wake()] if remaining else commands

    def _open_round(self, now: Ticks, ready: _Selectable) -> list[Command]:
        state = self.state
        cohort = self.sampler.draw(state.draws, ready, state.last_step, state.step, self.seed)
        claim = self.sampler.claim(self.public.num_clients, streaming=False)
        if not cohort and claim.kind != "poisson":
            return [self._exhausted()] if self._nobody_can_ever_come() else [Wake()]
        state.draws += 1
        return self._open(cohort, now)

    def _open(self, cohort: list[int], now: Ticks) -> list[Command]:
        """Start the exchange with a cohort; an empty one closes at once."""
        state = self.state
        state.cohort, state.opened = list(cohort), now
        wanted = round(self.sampler.expected_cohort(self.public.num_clients))
        state.needed = min(len(cohort), max(1, wanted))
        commands: list[Command] = []
        for client in cohort:
            commands.extend(self._dispatch(client, now))
        close = self._close()
        if isinstance(close, Deadline) and cohort:
            commands.append(SetTimer(now + self.ticks(close.seconds), state.timer_tag))
        return commands if cohort else [*commands, *self._begin_step(now)]

    def _nobody_can_ever_come(self) -> bool:
        """Whether the participation limit is used up by everybody and nothing is under way."""
        limit, state = self.limits.max_participations, self.state
        if limit is None or state.in_flight:
            return False
        used = Counter(state.participations)
        used.update(flight.client for flight in state.arrived.values())
        for client, paid in state.paid.items():
            used[client] = max(used[client], paid)
        return used.total() >= limit * self.public.num_clients

    def _exhausted(self) -> Finished:
        limit = self.limits.max_participations
        return self._finish("stopped", f"every client has taken part max_participations = {limit} times")

    def _dispatch(self, client: int, now: Ticks) -> list[Command]:
        state = self.state
        message = self.method.payload(state.method, client, state.last_version.get(client))
        message = replace(message, config={"version": state.version, **message.config})
        task = state.tasks.get(client, 0)
        examples, steps, normalizer, uplink = self.work_of(client, task, message)
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
        )
        state.next_dispatch += 1
        state.tasks[client] = task + 1
        state.last_version[client], state.last_step[client] = state.version, state.step
        state.in_flight[flight.dispatch_id] = flight
        state.busy[client] = state.busy.get(client, 0) + 1
        state.downlink_bytes += message.num_bytes
        return [Dispatch(flight.dispatch_id, client, task, state.version, flight.phase, message)]

    # ---- arrivals and losses -----------------------------------------------------------------------------------

    def _leave(self, dispatch_id: int) -> InFlight | None:
        """Take a dispatch out of flight; None if it is not (a duplicate, or already closed)."""
        state = self.state
        flight = state.in_flight.pop(dispatch_id, None)
        if flight is not None:
            state.busy[flight.client] -= 1
            if state.busy[flight.client] == 0:
                del state.busy[flight.client]
        return flight

    def _arrived(self, event: Arrived) -> list[Command]:
        state = self.state
        flight = self._leave(event.dispatch_id)
        if flight is None:
            return []
        flight.arrived = event.time
        state.uplink_bytes += flight.uplink_bytes
        self.charge(flight, used=True)
        commands = self._admit(flight, event.time)
        if flight.client in state.paid_since_step and event.dispatch_id not in state.arrived:
            # Rejected, but paid for: the client may start again, so what it can afford is asked again.
            state.paid_since_step.discard(flight.client)
            stopped = self._over_budget()
            if stopped:
                return [*commands, stopped]
        if self._immediately():
            self._free(flight.client)
        return [*commands, *self._maybe_close(event.time)]

    def charge(self, flight: InFlight, used: bool = False) -> None:
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
        state = self.state
        steps = state.tally.local_steps
        steps[flight.client] = steps.get(flight.client, 0) + flight.local_steps
        mechanism = self.mechanism
        if mechanism is not None and (mechanism.paid_on_arrival or (mechanism.unused_is_paid and not used)):
            state.tally.record(mechanism.next_events(state.mechanism, self.public), [flight.client])
        if mechanism is not None and (mechanism.paid_on_arrival or mechanism.client_ledgers):
            state.paid[flight.client] = state.paid.get(flight.client, 0) + 1
            state.paid_since_step.add(flight.client)

    def _late(self, event: Late) -> list[Command]:
        """A second reply to a dispatch, or one after its deadline: written down and paid for, never used."""
        flight = event.flight
        self.charge(flight)
        self.state.uplink_bytes += flight.uplink_bytes
        row = replace(flight, arrived=event.time, downlink_bytes=0)  # sending it was counted in its first row
        return [self._outcome(row, "duplicate" if event.duplicate else "rejected", 0.0)]

    def _immediately(self) -> bool:
        return self.state.exchange.pacing == "stream" and self.state.exchange.restart == "immediately"

    def _free(self, client: int) -> None:
        if self.state.exchange.pacing == "stream":
            self.state.slots.append(client)

    def _admit(self, flight: InFlight, now: Ticks) -> list[Command]:
        """Put a reply into the buffer, hold it for a later release, or reject it."""
        state = self.state
        waiting = {state.arrived[d].client for d in state.buffer}
        # Under privacy one client may move a release only once: its second reply waits for the next release.
        twice = self.mechanism is not None and flight.client in waiting
        admission = HOLD if twice else self.method.admit(state.method, self._meta(flight), self.public)
        if admission == REJECT:
            if not self._immediately():
                self._free(flight.client)
            return [Cancel(flight.dispatch_id), self._outcome(flight, "rejected", 0.0)]
        state.arrived[flight.dispatch_id] = flight
        if admission == HOLD:
            state.held.append(flight.dispatch_id)
            return [self._outcome(flight, "held", 0.0)]
        assert not isinstance(admission, str)
        flight.weight = float(admission)
        state.buffer.append(flight.dispatch_id)
        return []

    def _meta(self, flight: InFlight) -> ReplyMeta:
        state = self.state
        # Replies of the same client that wait for the same step: its gap is theirs already.
        waiting = sum(state.arrived[d].client == flight.client for d in state.buffer if d != flight.dispatch_id)
        return ReplyMeta(
            dispatch_id=flight.dispatch_id,
            client=flight.client,
            version=flight.version,
            staleness=state.version - flight.version,
            num_examples=flight.num_examples,
            local_steps=flight.local_steps,
            normalizer=flight.normalizer,
            task=flight.task,
            contributions=state.participations.get(flight.client, 0) + waiting,
            gap=0 if waiting else state.step + 1 - state.last_contribution.get(flight.client, 0),
        )

    def _lost(self, event: Lost) -> list[Command]:
        state = self.state
        flight = self._leave(event.dispatch_id)
        if flight is None:
            return []
        state.lost_since_step += 1
        flight.arrived = event.time
        self._free(flight.client)
        return [self._outcome(flight, "lost", 0.0), *self._maybe_close(event.time)]

    def _timer(self, event: Timer) -> list[Command]:
        if event.tag != self.state.timer_tag:
            return []
        close = self._close()
        if isinstance(close, Deadline):
            return [*self._drop_the_rest("lost"), *self._begin_step(event.time)]
        return self._begin_step(event.time)

    # ---- closing -----------------------------------------------------------------------------------------------

    def _maybe_close(self, now: Ticks) -> list[Command]:
        close, state = self._close(), self.state
        enough = isinstance(close, Count) and len(state.buffer) >= close.k
        if isinstance(close, Deadline) and close.k is not None:
            enough = len(state.buffer) >= close.k
        if enough:
            cancel = isinstance(close, Deadline) or (isinstance(close, Count) and close.cancel)
            return [*(self._drop_the_rest("rejected") if cancel else []), *self._begin_step(now)]
        everybody = state.exchange.pacing == "round" and not state.in_flight
        return self._begin_step(now) if everybody and not isinstance(close, Every) else []

    def _drop_the_rest(self, status: str) -> list[Command]:
        """Cancel what is still in flight: over-selected, or past the deadline."""
        state = self.state
        commands: list[Command] = []
        for dispatch_id in sorted(state.in_flight):
            flight = self._leave(dispatch_id)
            assert flight is not None
            state.lost_since_step += status == "lost"
            commands += [Cancel(dispatch_id), self._outcome(flight, status, 0.0)]
        return commands

    def _begin_step(self, now: Ticks) -> list[Command]:
        state, close = self.state, self._close()
        if self.limits.time is not None and now > self.limits.time:
            return [self._finish("finished", "the time limit is reached")]
        taken = state.buffer[: close.k] if isinstance(close, Count) else list(state.buffer)
        state.buffer = state.buffer[len(taken) :]
        flights = sorted((state.arrived.pop(d) for d in taken), key=lambda f: (f.client, f.dispatch_id))
        self._pending = (flights, [])
        return [Collect(tuple(map(self._meta, flights)), tuple(f.weight for f in flights))]

    def _collected(self, event: Collected) -> list[Command]:
        assert self._pending is not None, "Collected without Collect"
        (flights, commands), self._pending = self._pending, None
        state, now = self.state, event.time
        reduced = self.method.reduce(state.method, event.batch, self.public)
        facts: dict[str, Any] = {}
        if self.mechanism is None:
            released = {name: value for name, (value, _) in reduced.items()}
        else:
            assert self.noise is not None
            for part in self.mechanism.own_parts:
                bound = self.mechanism.bound(part, state.mechanism, self.public)
                reduced[part] = own_mean(event.batch, part, bound, state.method.params, self.public)
            release = self.mechanism.release(
                reduced, len(event.batch.metas), state.step + 1, state.mechanism, self.noise, self.public
            )
            released, state.mechanism, facts = release.values, release.state, release.facts
            if not self.mechanism.paid_on_arrival:
                state.tally.record(release.events, [flight.client for flight in flights])
        outcome = self.method.step(state.method, released, self.public)
        state.method = outcome.state
        commands += self._count_step(flights, event, facts, outcome.new_version, now)
        in_use = {state.version, *(f.version for f in (*state.in_flight.values(), *state.arrived.values()))}
        state.method = self.method.forget(state.method, in_use)
        return [*commands, *self._continue(outcome.exchange, flights, event.failed, now)]

    def _count_step(
        self, flights: list[InFlight], event: Collected, facts: dict[str, Any], new_version: bool, now: Ticks
    ) -> list[Command]:
        state = self.state
        staleness = [state.version - f.version for f in flights]
        state.step += 1
        state.paid_since_step.clear()
        state.queries += event.queries
        commands: list[Command] = []
        for flight in flights:
            failed = flight.dispatch_id in event.failed
            outcome = self._outcome(flight, "failed" if failed else "admitted", 0.0 if failed else flight.weight)
            outcome.row["queries"] = event.queries_of.get(flight.dispatch_id)
            commands.append(outcome)
            state.lost_since_step += failed
            # A failed reply still counts as taking part: nobody may be released more often because it failed.
            state.participations[flight.client] = state.participations.get(flight.client, 0) + 1
            state.last_contribution[flight.client] = state.step
        state.version += new_version
        row = {
            "step": state.step,
            "phase": state.exchange.phase,
            "time_s": now / self.ticks_per_second,
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

    def _continue(
        self, exchange: Exchange | None, flights: list[InFlight], failed: Collection[int], now: Ticks
    ) -> list[Command]:
        """After a step: end the run, start the second exchange, or go on."""
        state, limits = self.state, self.limits
        previous = state.exchange
        state.exchange = exchange or self.method.plan(state.method, self.public)
        state.timer_tag += 1
        if limits.server_steps is not None and state.step >= limits.server_steps and exchange is None:
            return [self._finish("finished", f"{state.step} server steps were made")]
        stopped = self._over_budget()
        if stopped:
            return [stopped]
        if previous.pacing == "stream" and previous.restart == "at_step":
            state.slots.extend(f.client for f in flights)
        commands = self._readmit(now)
        if state.exchange.pacing == "round":
            if state.exchange.cohort == "same":
                # Who failed has no state of this round to go on from.
                members = [f.client for f in flights if f.dispatch_id not in failed]
                return [*commands, *self._open(members, now)]
            state.cohort = []
        state.opened = now
        return [*commands, *self._timers(now), *self._maybe_close_again(now)]

    def _maybe_close_again(self, now: Ticks) -> list[Command]:
        """Replies that were held or left over may already fill the next buffer."""
        close = self._close()
        full = isinstance(close, Count) and self.state.exchange.pacing == "stream" and len(self.state.buffer) >= close.k
        return self._begin_step(now) if full else []

    def _readmit(self, now: Ticks) -> list[Command]:
        state = self.state
        held, state.held = state.held, []
        commands: list[Command] = []
        for dispatch_id in held:
            flight = state.arrived.pop(dispatch_id)
            before = len(state.held)
            outcomes = self._admit(flight, now)
            commands += [] if len(state.held) > before else outcomes  # still held: it has its row already
            flight.uplink_bytes = flight.downlink_bytes = 0  # counted in the row that said held
        return commands

    def _over_budget(self) -> Finished | None:
        if self.affordable is None or self.mechanism is None:
            return None
        events = self.mechanism.next_events(self.state.mechanism, self.public)
        reason = self.affordable(self.state, events)
        return self._finish("stopped", reason) if reason else None

    def _finish(self, status: str, reason: str) -> Finished:
        self.state.finished = True
        return Finished(status, reason)

    def _outcome(self, flight: InFlight, status: str, weight: float) -> Outcome:
        rate, state = self.ticks_per_second, self.state
        lost = status == "lost" or flight.arrived is None
        return Outcome(
            {
                "client_id": flight.client,
                "version": flight.version,
                "step": state.step if status in ("admitted", "failed") else state.step + 1,
                "phase": flight.phase,
                "staleness": state.version - flight.version,
                "dispatched_s": flight.sent / rate,
                "arrived_s": None if flight.arrived is None else flight.arrived / rate,
                "local_steps": flight.local_steps,
                "num_examples": flight.num_examples,
                "status": status,
                "weight": weight,
                "uplink_bytes": 0 if lost else flight.uplink_bytes,
                "downlink_bytes": flight.downlink_bytes,
            }
        )
