"""Drives a server on the virtual clock with client work that returns nothing but zeros: only the schedule matters."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from fedopt.components import component
from fedopt.devices.base import Fleet
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates
from fedopt.server import Limits, Server
from fedopt.simulation.computation import Computation
from fedopt.simulation.fleet import DeviceClock
from fedopt.simulation.simulator import Simulator
from fedopt.simulation.states import StateStore
from fedopt.types import Count, ParamSpec, Public


class ZeroWork:
    """Client work whose update is zero."""

    def work(self, cohort: Cohort, engine: Any) -> CohortReply:
        return CohortReply({"update": DenseUpdates(torch.zeros(len(cohort), 1))})


def devices(compute: Any, **options: Any) -> Any:
    """A devices section around a compute model."""
    kinds = {
        "network": ("fedopt.devices.network", "none"),
        "availability": ("fedopt.devices.availability", "always"),
        "work": ("fedopt.devices.work", "full"),
    }
    parts = {name: component(*where)() for name, where in kinds.items()}
    defaults = {"dropout": 0.0, "dropout_phase": "during", "interrupt": False}
    return SimpleNamespace(compute=compute, **{**parts, **defaults, **options})


class Schedule:
    """A run without learning.

    Args:
        method, sampler, compute: components.
        clients: population.
        steps: server steps, or None.
        options: ``seconds`` is the time limit, ``work`` the client work and ``states`` the sizes of its states,
            ``max_participations`` and ``mechanism`` go to the server, all others to the devices.
    """

    def __init__(
        self, method: Any, sampler: Any, compute: Any, clients: int, steps: int | None, seed: int = 0, **options: Any
    ):
        limit = options.pop("max_participations", None)
        mechanism, seconds, work = (options.pop(name, None) for name in ("mechanism", "seconds", "work"))
        states = StateStore(options.pop("states", {}))
        self.clock = DeviceClock(devices(compute, **options), Fleet(seed, clients, np.ones(clients, dtype=np.int64)))
        public = Public(
            num_clients=clients,
            expected_cohort=sampler.expected_cohort(clients),
            num_examples=np.ones(clients, dtype=np.int64),
            seconds_per_task=self.clock.compute.expected([1] * clients, 1),
        )
        close = method.plan(None, public).close
        if isinstance(close, Count):
            public = Public(**{**public.__dict__, "expected_cohort": float(close.k)})
        self.server = Server(
            method,
            sampler,
            public,
            torch.zeros(1),
            Limits(steps, None if seconds is None else self.clock.ticks(seconds), limit),
            self.clock.ticks_per_second,
            seed,
            work_of=lambda client, task, message: (1, 1, 1.0, 4, 0),
            mechanism=mechanism,
        )
        engine = SimpleNamespace(spec=ParamSpec(("w",), ((1,),)))
        computation = Computation(engine, work or ZeroWork(), public, seed, 10_000, 1 << 30, states)
        self.rows: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.simulator = Simulator(self.server, computation, self.clock, lambda n: 1, self._step, self.rows.append)
        self.ended = self.simulator.run()

    def _step(self, stepped: Any, metrics: dict[str, float]) -> None:
        self.steps.append(stepped.row)

    def uploads(self) -> list[tuple[Fraction, int, int]]:
        """(arrival, client, base version) of every admitted reply, in the order of the steps that used them."""
        return [
            (Fraction(r["arrived_s"]).limit_denominator(1000), r["client_id"], r["version"])
            for r in self.rows
            if r["status"] == "admitted"
        ]

    def step_members(self) -> list[tuple[Fraction, set[int]]]:
        """(time, clients) of every step."""
        found = []
        for row in self.steps:
            members = {r["client_id"] for r in self.rows if r["status"] == "admitted" and r["step"] == row["step"]}
            found.append((Fraction(row["time_s"]).limit_denominator(1000), members))
        return found
