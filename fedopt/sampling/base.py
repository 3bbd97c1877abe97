"""Samplers: who takes part, and the amplification that draw really has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
from pydantic import ConfigDict, Field

from fedopt.components import Settings


class Ready(Protocol):
    """Who could be asked right now. ``is_ready`` covers availability, being idle and the participation limit."""

    num_clients: int

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        """Clients ``[k]`` int64 -> ``[k]`` bool."""
        ...


class SamplingClaim(NamedTuple):
    """What an accountant may use of a sampler.

    Args:
        kind: poisson (independent coin per client), none (no amplification: every release is charged in full),
            or separated (at least ``min_separation`` steps between participations).
        probability: sampling probability in (0, 1]; 1 without amplification.
        min_separation: b of a separated schedule, else None.
    """

    kind: Literal["poisson", "none", "separated"]
    probability: float = 1.0
    min_separation: int | None = None


class Sampler(Settings):
    """Base of samplers."""

    model_config = ConfigDict(allow_inf_nan=False)

    over_selection: float = Field(
        1.0, ge=1, description="start this many times more clients than needed and close at the needed number"
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        description="close a round after this many virtual seconds; who has not replied by then counts as lost",
    )

    @abstractmethod
    def expected_cohort(self, num_clients: int) -> float:
        """Expected number of replies per round (a public constant), before over-selection."""

    @abstractmethod
    def slots(self, num_clients: int) -> int:
        """How many clients a stream keeps in flight."""

    @abstractmethod
    def draw(self, index: int, ready: Ready, last_step: Mapping[int, int], step: int, seed: int) -> list[int]:
        """Cohort number ``index``, ascending client ids, all ready.

        Args:
            index: how many cohorts were drawn before; with the seed it names the random stream.
            ready: who can be asked.
            last_step: server step at which each client was last started.
            step: current server step.
            seed: run seed.
        """

    def turns(self, num_clients: int) -> int:
        """In how many consecutive draws everybody has a turn: 1 unless fixed groups take turns.

        A turn that nobody who is ready can take is passed over. Where no turn has anybody although somebody is ready,
        the empty cohort is a step.
        """
        return 1

    @abstractmethod
    def refill(self, index: int, freed: int, ready: Ready, seed: int) -> int | None:
        """Client for a slot of a stream that ``freed`` just left (-1: a new slot); None if nobody is ready.

        Args:
            index: how many refills were drawn before; with the seed it names the random stream.
        """

    @abstractmethod
    def claim(self, num_clients: int, streaming: bool) -> SamplingClaim:
        """The amplification this draw really has; ``streaming`` is asynchronous pacing, which has none."""

    def problems(self, num_clients: int, streaming: bool) -> tuple[str, ...]:
        """Why this sampler cannot serve such a run, each with a remedy; empty if it can. Asked before a run starts.

        Args:
            num_clients: population size.
            streaming: asynchronous pacing, which asks ``refill`` and never ``draw``.
        """
        return ()
