"""Stragglers limited to a bursty or an arbitrary pattern, around another compute model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedopt import rng
from fedopt.components import KindOf
from fedopt.devices._times import exact, scaled
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet, Seconds


class Bursty(ComputeModel):
    """Stragglers within a (B, W, lambda)-bursty or (N, W, lambda)-arbitrary pattern: the models of gradient coding.

    In every window of ``window`` consecutive task numbers at most ``max_stragglers`` distinct clients straggle, and
    each of them (``pattern: bursty``) only within fewer than ``burst + 1`` consecutive tasks, or (``arbitrary``) at
    most ``burst`` times. Per task number the clients are visited in random order, marked with ``probability``, and
    unmarked where the window test fails. A straggler's task takes ``factor`` times as long. Meant for synchronous
    rounds, where the task number is the round.

    References: Krishnan, Ebrahimi, Khisti 2022, Sequential Gradient Coding for Straggler Mitigation, arXiv:2211.13802
    (the two patterns); the random generator is derived in this project.
    """

    base: Annotated[ComputeModel, KindOf("fedopt.devices.compute")] = Field(
        {"kind": "constant"}, validate_default=True, description="compute model of a task that does not straggle"
    )
    pattern: Literal["bursty", "arbitrary"] = Field("bursty", description="what burst limits: its span, or its count")
    burst: int = Field(1, ge=1, description="B (span in tasks, < window) or N (count): limit of one client in a window")
    window: int = Field(3, ge=2, description="W: length of the window, in tasks")
    max_stragglers: int = Field(1, ge=0, description="lambda: distinct stragglers in a window at most")
    probability: float = Field(0.1, ge=0, le=1, description="probability of marking a client when it is visited")
    factor: float = Field(5.0, ge=1, allow_inf_nan=False, description="how many times longer a straggler's task takes")

    @model_validator(mode="after")
    def _span(self) -> Bursty:
        if self.burst >= self.window:
            raise ValueError(f"burst must be < window = {self.window}, got {self.burst}")
        return self

    def denominator(self, num_clients: int) -> int:
        """That of the base model, times that of the factor."""
        return self.base.denominator(num_clients) * exact(self.factor).denominator

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Patterns of this fleet."""
        return _Pattern(self, fleet, self.base.bind(fleet))


class _Pattern:
    def __init__(self, settings: Bursty, fleet: Fleet, base: ComputeTimes):
        self._settings, self._fleet, self._base = settings, fleet, base
        self._rounds: list[frozenset[int]] = []  # grows with the largest task number asked for

    def stragglers(self, task: int) -> frozenset[int]:
        """Clients that straggle in this task number."""
        while len(self._rounds) <= task:
            self._rounds.append(self._next_round())
        return self._rounds[task]

    def _next_round(self) -> frozenset[int]:
        settings, number = self._settings, len(self._rounds)
        stream = rng.generator(self._fleet.seed, "compute-bursts", number)
        order = stream.permutation(self._fleet.num_clients)
        marked = order[stream.random(self._fleet.num_clients) < settings.probability]
        recent = self._rounds[max(0, number - settings.window + 1) :]
        touched = set().union(*recent)
        chosen: set[int] = set()
        for client in map(int, marked):
            fits = len(touched | {client}) <= settings.max_stragglers
            if fits and self._may_straggle(client, recent):
                chosen.add(client)
                touched.add(client)
        return frozenset(chosen)

    def _may_straggle(self, client: int, recent: Sequence[frozenset[int]]) -> bool:
        if self._settings.pattern == "arbitrary":
            return sum(client in before for before in recent) < self._settings.burst
        spared = len(recent) - (self._settings.burst - 1)  # the burst - 1 tasks just before may be of this burst
        return not any(client in before for before in recent[: max(0, spared)])

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Base time, times the factor for a straggler."""
        base = self._base.seconds(client, task, local_steps, batch_size)
        return scaled(base, self._settings.factor) if int(client) in self.stragglers(task) else base

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds] | None:
        """Unknown: the share of stragglers has no closed form."""
        return None
