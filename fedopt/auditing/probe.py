"""Short runs for the named checks: the same schedule under chosen contributions and secrets, made once and kept."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from fedopt.auditing import observe
from fedopt.auditing.canaries import CanaryEngine, CanaryWork, ClientCanaries, choose_examples, with_canary_inputs
from fedopt.auditing.observe import Build, Trace
from fedopt.privacy.releases import Event
from fedopt.privacy.simulated_noise import SimulatedNoise
from fedopt.rng import key
from fedopt.scenario import Scenario

STEPS = 5
SMALL_PUSH, LARGE_PUSH = 10.0, 1000.0  # norm of the target's contribution over the clipping norm


class Probe:
    """A scenario under test.

    Args:
        scenario: with a privacy section.
        build: assembles a run.
        seed: of secrets and canaries.
        data: already loaded, or None.
    """

    def __init__(self, scenario: Scenario, build: Build = observe.build, seed: int = 0, data: Any = None):
        if scenario.privacy is None:
            raise ValueError("the scenario has no privacy section, so there is nothing to check; add one")
        self.seed, self._build = seed, build
        self.data = data or scenario.data.load(scenario.seed)
        parts = build(scenario, self.data, SimulatedNoise(self.secret(0)))
        self.parts = parts  # never run: claims, sampler, public facts
        self.by_example = scenario.privacy.unit == "example"
        self.local = scenario.privacy.trust == "local" or self.mechanism.client_ledgers
        privacy = scenario.privacy.model_copy(
            update={"mechanism": parts.server.mechanism, "target_epsilon": None, "max_epsilon": None}
        )
        steps = min(STEPS, scenario.run.server_steps or STEPS)
        run = scenario.run.model_copy(update={"server_steps": steps, "time_s": None, "target_metric": None})
        self.scenario = scenario.model_copy(update={"privacy": privacy, "run": run})
        self.clipping_norm = float(getattr(parts.server.mechanism, "clipping_norm", 1.0))
        self.dimension = parts.engine.spec.size
        self.engines: dict[tuple[float, int], CanaryEngine] = {}
        self.run = lru_cache(maxsize=8)(self._run)

    def secret(self, number: int) -> int:
        """Seed of the noise of a run; the scenario never sees it."""
        return key(self.seed, "audit_secret", number) % 2**62

    @property
    def mechanism(self) -> Any:
        """The mechanism under test."""
        return self.parts.server.mechanism

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What a release is charged at most, before amplification."""
        server = self.parts.server
        return tuple(self.mechanism.reply_events(server.state.mechanism, server.public))

    @cached_property
    def target(self) -> int:
        """The client with most examples among those that take part in the probed steps (examples decide weights)."""
        taken = set().union(*self.run(0.0, 1).cohorts().values()) or {0}
        sizes = self.data.clients.sizes()
        return max(taken, key=lambda c: (int(sizes[c]) if c < len(sizes) else 0, -c))

    @cached_property
    def target_step(self) -> int:
        """First step (from 0) that the target's reply goes into."""
        cohorts = self.run(0.0, 1).cohorts()
        return min((step for step, members in cohorts.items() if self.target in members), default=1) - 1

    def _run(self, push: float, secret: int) -> Trace:
        """A run in which only the target contributes: ``push`` clipping norms (0: nobody does).

        Args:
            push: of the target.
            secret: number of the noise secret.
        """
        return self._with_example(push, secret) if self.by_example else self._with_client(push, secret)

    def _with_client(self, push: float, secret: int) -> Trace:
        parts = self._build(self.scenario, self.data, SimulatedNoise(self.secret(secret)))
        target = (self.target,) if push else ()
        canaries = ClientCanaries(target, (True,) * len(target), self.seed, push * self.clipping_norm, False)
        parts.computation.work = CanaryWork(parts.computation.work, canaries)  # type: ignore[assignment]
        return observe.watch(parts, self.scenario.client.batch_size_of, replies=self.local)

    @cached_property
    def example(self) -> tuple[int, int]:
        """A training example and its holder."""
        examples, holders = choose_examples(self.data, 1, self.seed)
        return examples[0], holders[0]

    def _with_example(self, push: float, secret: int) -> Trace:
        chosen, _ = self.example
        data = with_canary_inputs(self.data, (chosen,), max(push, 1.0) * 20 * max(1.0, self.clipping_norm), self.seed)
        parts = self._build(self.scenario, data, SimulatedNoise(self.secret(secret)))
        absent = np.ones(len(data.train), bool)
        absent[chosen] = push == 0
        engine = CanaryEngine(parts.computation.engine, absent)
        self.engines[push, secret] = engine
        parts.computation.engine = engine
        return observe.watch(parts, self.scenario.client.batch_size_of, replies=self.local)

    def released(self, trace: Trace, step: int) -> torch.Tensor:
        """What the optimiser saw at a step, all parts of the reply in one vector, float64."""
        own = set(self.mechanism.own_parts) | {"replies"}
        parts = [value.double().flatten().cpu() for name, value in trace.released[step].items() if name not in own]
        return torch.cat(parts)
