"""Audit runs of a scenario: insert canaries, run the real code, score the canaries on what an observer sees."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedopt.auditing import observe
from fedopt.auditing.canaries import (
    PUSH,
    CanaryEngine,
    CanaryWork,
    ClientCanaries,
    ExampleCanaries,
    choose_examples,
    with_canary_inputs,
)
from fedopt.auditing.observe import Build, Trace
from fedopt.privacy.simulated_noise import SimulatedNoise
from fedopt.rng import generator, key
from fedopt.scenario import Scenario

MOST_CANARIES = 1000
_FRESH = 1000  # directions that never took part, for the null of the one-shot estimate


@dataclass(frozen=True)
class Scores:
    """What an attack knows after a run.

    Args:
        scores: of every canary ``[m]``; higher means present.
        present: coins ``[m]``.
        took_part: whether a canary was in any release ``[m]``.
        seen, unseen: all-iterates statistic of present canaries that took part, and of ones that never did.
        claimed: epsilon of this run under the relation audited.
        gaussian: whether the claim is one Gaussian curve.
        steps: server steps made.
    """

    scores: np.ndarray
    present: np.ndarray
    took_part: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray
    claimed: float
    gaussian: bool
    steps: int


class Attack:
    """Audit runs of one scenario.

    Args:
        scenario: with a privacy section.
        server_steps: of an audit run, or None for the scenario's.
        build: assembles a run; tests plant bugs here.
        seed: of coins, directions and noise; None draws one from the operating system.
    """

    def __init__(
        self, scenario: Scenario, server_steps: int | None = None, build: Build = observe.build, seed: int | None = None
    ):
        if scenario.privacy is None:
            raise ValueError("the scenario has no privacy section, so there is no claim to audit; add one")
        self.secret = secrets.randbits(62) if seed is None else seed
        self.build, self.data = build, scenario.data.load(scenario.seed)
        self.by_example = scenario.privacy.unit == "example"
        if self.by_example and self.data.objective is not None:
            raise ValueError("a black-box task has no examples to audit; use unit: client")
        self.scenario = self._pinned(scenario, server_steps)

    def _pinned(self, scenario: Scenario, server_steps: int | None) -> Scenario:
        """The scenario with its noise calibrated once, for the whole planned run, and maybe fewer steps."""
        privacy, run = scenario.privacy, scenario.run
        assert privacy is not None
        parts = self.build(scenario, self.data, SimulatedNoise(self.secret))
        self.dimension = parts.engine.spec.size
        self.clipping_norm = float(getattr(parts.server.mechanism, "clipping_norm", 1.0))
        pinned = privacy.model_copy(update={"mechanism": parts.server.mechanism, "target_epsilon": None})
        self.planned = scenario.model_copy(update={"privacy": pinned})
        if server_steps is not None and (run.server_steps is None or server_steps < run.server_steps):
            run = run.model_copy(update={"server_steps": server_steps, "time_s": None, "target_metric": None})
        self.hidden_cohorts = parts.server.affordable.claim.kind == "poisson"
        return scenario.model_copy(update={"privacy": pinned, "run": run})

    def run(self, number: int, canaries: int | None = None, alone: bool = False) -> Scores:
        """One audit run.

        Args:
            number: names its coins, directions and noise.
            canaries: how many; None for all, at most ``MOST_CANARIES``.
            alone: no other client contributes (other examples never do).
        """
        return self._examples(number, canaries) if self.by_example else self._clients(number, canaries, alone)

    def _seed(self, number: int, purpose: str) -> int:
        return key(self.secret, f"audit_{purpose}", number) % 2**62

    def _fresh(self, number: int) -> Scenario:
        """Hidden cohorts and batches must be drawn anew; a public schedule may be the same in every run."""
        if not self.hidden_cohorts and not self.by_example:
            return self.scenario
        return self.scenario.model_copy(update={"seed": self._seed(number, "sampling") % 2**31})

    # ---- clients -----------------------------------------------------------------------------------------------

    def _clients(self, number: int, count: int | None, alone: bool) -> Scores:
        scenario = self._fresh(number)
        parts = self.build(scenario, self.data, SimulatedNoise(self._seed(number, "noise")))
        population = self.data.clients.num_clients if self.data.objective is None else parts.clock.num_clients
        m = min(count or MOST_CANARIES, population)
        draw = generator(self._seed(number, "coins"), "audit_coins")
        chosen = m < population and not self.hidden_cohorts
        clients = self._busiest(m) if chosen else tuple(draw.permutation(population)[:m])
        present = draw.random(m) < 0.5
        canaries = ClientCanaries(
            tuple(int(c) for c in clients),
            tuple(present.tolist()),
            self._seed(number, "coins"),
            PUSH * self.clipping_norm,
            not alone,
        )
        parts.computation.work = CanaryWork(parts.computation.work, canaries)  # type: ignore[assignment]
        local = scenario.privacy is not None and scenario.privacy.trust == "local"
        trace = observe.watch(parts, scenario.client.batch_size_of, replies=local)
        trace.epsilon = observe.claimed(parts)
        return self._scores_of_clients(parts, trace, canaries, present, local)

    def _busiest(self, m: int) -> tuple[int, ...]:
        """The clients that a public schedule asks most often: an attacker would look at them."""
        if not hasattr(self, "_order"):
            parts = self.build(self.scenario, self.data, SimulatedNoise(self.secret))
            nobody = ClientCanaries((), (), 0, 0.0, others_train=False)
            parts.computation.work = CanaryWork(parts.computation.work, nobody)  # type: ignore[assignment]
            trace = observe.watch(parts, self.scenario.client.batch_size_of)
            counts = np.zeros(parts.clock.num_clients)
            for cohort in trace.cohorts().values():
                counts[list(cohort)] += 1
            self._order = tuple(np.argsort(-counts, kind="stable").tolist())
        return self._order[:m]

    def _scores_of_clients(
        self, parts: Any, trace: Trace, canaries: ClientCanaries, present: np.ndarray, local: bool
    ) -> Scores:
        moves, d = torch.stack(trace.moves()), self.dimension
        directions = torch.stack([canaries.direction(i, d) for i in range(len(canaries.clients))])
        taken = trace.cohorts()
        membership = np.array([[c in taken.get(t + 1, ()) for t in range(len(moves))] for c in canaries.clients])
        inner = (directions @ moves.T).numpy()  # [m, steps]
        if local:
            scores = self._scores_of_replies(trace, canaries, directions)
        else:
            scores = (inner * membership).sum(1) if not self.hidden_cohorts else inner.sum(1)
        fresh = torch.stack([canaries.direction(10**6 + i, d) for i in range(_FRESH)])
        lengths = moves.norm(dim=1).clamp_min(1e-30).numpy()
        cosines, null = inner / lengths, (fresh @ moves.T).numpy() / lengths
        part = np.asarray(membership.any(1))
        return Scores(
            scores,
            present,
            part,
            cosines[present & part].max(1, initial=-1.0),
            null.max(1),
            trace.epsilon,
            _is_gaussian(parts),
            len(moves),
        )

    def _scores_of_replies(self, trace: Trace, canaries: ClientCanaries, directions: torch.Tensor) -> np.ndarray:
        """Under local trust everybody sees the single replies."""
        position, scores = {c: i for i, c in enumerate(canaries.clients)}, np.zeros(len(canaries.clients))
        for _, client, reply in trace.replies:
            if client in position:
                i = position[client]
                scores[i] += float(reply.double().cpu() @ directions[i])
        return scores

    # ---- examples ----------------------------------------------------------------------------------------------

    def _examples(self, number: int, count: int | None) -> Scores:
        """All other examples contribute nothing: the claim must hold then, too, and the attack sees canaries only."""
        scenario, coins = self._fresh(number), self._seed(number, "coins")
        wanted = min(count or MOST_CANARIES, len(self.data.train) // 2, max(4, int(2e7) // self.dimension))
        examples, holders = choose_examples(self.data, wanted, coins)
        data = with_canary_inputs(self.data, examples, 20.0 * max(1.0, self.clipping_norm), coins)
        present = generator(coins, "audit_coins").random(len(examples)) < 0.5
        canaries = ExampleCanaries(examples, holders, tuple(present.tolist()), only=True)
        parts = self.build(scenario, data, SimulatedNoise(self._seed(number, "noise")))
        directions = self._gradients(parts, examples)
        engine = CanaryEngine(parts.computation.engine, canaries.absent(len(data.train)))
        parts.computation.engine = engine
        single = bool(parts.server.mechanism.client_ledgers)  # type: ignore[union-attr]
        trace = observe.watch(parts, scenario.client.batch_size_of, replies=single)
        trace.epsilon = observe.claimed(parts)
        moves = torch.stack(trace.moves())
        if single:
            totals: dict[int, torch.Tensor] = {}
            for _, client, reply in trace.replies:
                totals[client] = totals.get(client, 0) + reply.double().cpu()  # type: ignore[operator]
            scores = np.array(
                [float(totals[c] @ g) if c in totals else 0.0 for c, g in zip(holders, directions, strict=True)]
            )
            part = np.array([c in totals for c in holders])
        else:
            scores, part = (directions @ moves.sum(0)).numpy(), np.ones(len(examples), bool)
        return Scores(
            scores,
            present,
            part,
            scores[present & part],
            scores[~present & part],
            trace.epsilon,
            _is_gaussian(parts),
            len(moves),
        )

    def _gradients(self, parts: Any, examples: tuple[int, ...]) -> torch.Tensor:
        """Where a present canary pushes the first model: minus its gradient, as unit vectors ``[m, d]`` float64."""
        from fedopt.clients.gradient_difference import example_gradients

        start, rows = parts.server.state.method.params, []
        for block in torch.tensor(examples, device=start.device).split(64):
            rows.append(example_gradients(parts.computation.engine, start, block)[0].double().cpu())
        found = -torch.cat(rows)
        return found / found.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _is_gaussian(parts: Any) -> bool:
    from fedopt.privacy.events import is_gaussian

    accounting = parts.server.affordable
    profiles = accounting.profiles(parts.server.state.tally)
    return bool(profiles) and all(is_gaussian(event) for profile in profiles for event, _ in profile)
