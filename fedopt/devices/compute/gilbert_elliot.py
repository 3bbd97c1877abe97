"""Gilbert-Elliott bursts of slowness around another compute model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from fedopt import rng
from fedopt.components import KindOf
from fedopt.devices._times import exact, scaled
from fedopt.devices._two_state import Chain, stationary
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet, Seconds


class GilbertElliot(ComputeModel):
    """Gilbert-Elliott bursts: every client alternates between good tasks and runs of slow ones.

    Slow tasks take ``factor`` times as long. A two-state Markov chain per client, indexed by its task number:
    ``P(good -> bad) = enter``, ``P(bad -> good) = leave``; the first task is drawn from the stationary law. Share of
    slow tasks ``enter / (enter + leave)``, mean burst ``1 / leave`` tasks,
    ``E[T_i] = E[base_i] (1 + share (factor - 1))``. The base draws are the same with and without bursts.

    References: Gilbert 1960, Elliott 1963 (the channel); the parameterisation by task is derived in this project.
    """

    base: Annotated[ComputeModel, KindOf("fedopt.devices.compute")] = Field(
        {"kind": "constant"}, validate_default=True, description="compute model of the good state"
    )
    enter: float = Field(0.05, ge=0, le=1, description="a: probability that a burst starts after a good task")
    leave: float = Field(0.5, gt=0, le=1, description="b: probability that a burst ends after a slow task")
    factor: float = Field(5.0, ge=1, allow_inf_nan=False, description="how many times longer a slow task takes")

    @model_validator(mode="after")
    def _mixing(self) -> GilbertElliot:
        if self.enter == 1 and self.leave == 1:
            raise ValueError("enter = leave = 1 alternates forever; lower one of them")
        return self

    def denominator(self, num_clients: int) -> int:
        """That of the base model, times that of the factor."""
        return self.base.denominator(num_clients) * exact(self.factor).denominator

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Chains of this fleet."""
        return _Bursts(self, fleet.seed, self.base.bind(fleet))


class _Bursts:
    def __init__(self, settings: GilbertElliot, seed: int, base: ComputeTimes):
        self._settings, self._seed, self._base = settings, seed, base
        self._chains: dict[int, Chain] = {}  # of the clients touched; only a cache

    def is_slow(self, client: int, task: int) -> bool:
        """Whether the client's task-th task lies in a burst."""
        client = int(client)
        if client not in self._chains:

            def uniform(at: int) -> float:
                return float(rng.generator(self._seed, "compute-bursts", client, at).random())

            self._chains[client] = Chain(uniform, self._settings.enter, self._settings.leave)
        return self._chains[client].at(task)

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Base time, times the factor in a burst."""
        base = self._base.seconds(client, task, local_steps, batch_size)
        return scaled(base, self._settings.factor) if self.is_slow(client, task) else base

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds] | None:
        """Mean times, if the base model knows its own."""
        base = self._base.expected(local_steps, batch_size)
        share = stationary(self._settings.enter, self._settings.leave)
        return None if base is None else [float(t) * (1 + share * (self._settings.factor - 1)) for t in base]
