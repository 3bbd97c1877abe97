"""What every part of the server works with: settings, state, and the small questions about them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from fedopt.aggregators.base import Method
from fedopt.privacy.base import Mechanism, Noise
from fedopt.protocol import Command, Finished, Outcome, SetTimer
from fedopt.sampling.base import Sampler
from fedopt.server.state import InFlight, Limits, ServerState
from fedopt.types import AllArrived, Close, Count, Deadline, Every, Public, ReplyMeta, Ticks


class Core:
    """Settings and state of one federated server; its parts are functions of it.

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
        work_of: ``(client, task, message) -> (num_examples, local_steps, normalizer, uplink_bytes, queries)``.
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
        self.pending: list[InFlight] | None = None  # replies of the step whose Collect is being answered

    def ticks(self, seconds: Any) -> Ticks:
        """Seconds (exact if a Fraction, else the nearest tick) as ticks."""
        exact = seconds if isinstance(seconds, Fraction) else Fraction(str(seconds))
        return round(exact * self.ticks_per_second)

    def close_rule(self) -> Close:
        """The method's close rule, with the sampler's over-selection and deadline where the method waits for all."""
        close, state = self.state.exchange.close, self.state
        if not isinstance(close, AllArrived) or state.exchange.pacing != "round":
            return close
        over = state.needed if self.sampler.over_selection > 1 else None
        if self.sampler.deadline_s is not None:
            return Deadline(self.sampler.deadline_s, over)
        return Count(over, cancel=True) if over is not None else close

    def timers(self, now: Ticks) -> list[Command]:
        """The timer of the current exchange, if its close rule has one."""
        close = self.close_rule()
        if isinstance(close, Every):
            period = self.ticks(close.seconds)
            return [SetTimer((now // period + 1) * period, self.state.timer_tag)]
        return []

    def leave(self, dispatch_id: int) -> InFlight | None:
        """Take a dispatch out of flight; None if it is not (a duplicate, or already closed)."""
        state = self.state
        flight = state.in_flight.pop(dispatch_id, None)
        if flight is not None:
            state.busy[flight.client] -= 1
            if state.busy[flight.client] == 0:
                del state.busy[flight.client]
        return flight

    def immediately(self) -> bool:
        """Whether a client may start again as soon as its reply is in."""
        return self.state.exchange.pacing == "stream" and self.state.exchange.restart == "immediately"

    def moves_twice(self, flight: InFlight) -> bool:
        """Whether a second reply of its client is due: under privacy one client may move a release only once."""
        return self.mechanism is not None and flight.client in self.state.buffered

    def free(self, client: int) -> None:
        """Give the slot of a stream back to the sampler."""
        if self.state.exchange.pacing == "stream":
            self.state.slots.append(client)

    def meta(self, flight: InFlight) -> ReplyMeta:
        """What a method may know of a reply when it decides about its weight."""
        state = self.state
        # Other replies of the same client that wait for the same step (this one is not in the buffer, or not any more):
        # its gap is theirs already.
        waiting = state.buffered.get(flight.client, 0)
        return ReplyMeta(
            dispatch_id=flight.dispatch_id,
            client=flight.client,
            version=flight.version,
            staleness=state.version - flight.version,
            num_examples=flight.num_examples,
            local_steps=flight.local_steps,
            normalizer=flight.normalizer,
            task=flight.task,
            contributions=state.contributions.get(flight.client, 0) + waiting,
            gap=0 if waiting else state.step + 1 - state.last_contribution.get(flight.client, 0),
        )

    def over_budget(self) -> Finished | None:
        """The end of the run if the next release cannot be paid for."""
        if self.affordable is None or self.mechanism is None:
            return None
        events = self.mechanism.next_events(self.state.mechanism, self.public)
        reason = self.affordable(self.state, events)
        return self.finish("stopped", reason) if reason else None

    def finish(self, status: str, reason: str) -> Finished:
        """End the run; every later event is ignored."""
        self.state.finished = True
        return Finished(status, reason)

    def outcome(self, flight: InFlight, status: str, weight: float) -> Outcome:
        """The row of ``updates`` for a dispatch that is over."""
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
