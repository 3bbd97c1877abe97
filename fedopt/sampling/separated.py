"""Round robin over public random groups: participations of a client lie far apart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from pydantic import Field

from fedopt.rng import generator
from fedopt.sampling._draws import selected
from fedopt.sampling.base import Ready, Sampler, SamplingClaim


class Separated(Sampler):
    """Cohorts walk around a public random ring of all clients, so a client rests between participations.

    The population is permuted once (by the run's seed) and cohort number t takes the next positions of the ring.

    Guarantees: the same client is in two cohorts only if their numbers differ by at least ``floor(N / cohort)``, which
    must reach ``min_separation``; every client has its turn. Clients that are not ready are left out and not replaced.
    A client that was started less than ``min_separation`` server steps ago is left out as well. A turn that nobody can
    take (absent, or no participations left) is passed over; while all who are ready must still rest, a step is empty.

    References: Choquette-Choo et al. 2023, (Amplified) Banded Matrix Factorization, arXiv:2306.08153 (b-min-sep
    participation).
    """

    cohort_size: int = Field(10, ge=1, description="clients per round whose replies are wanted")
    min_separation: int = Field(1, ge=1, description="server steps b between two starts of a client, at least")

    def problems(self, num_clients: int, streaming: bool) -> tuple[str, ...]:
        """A stream has no cohorts; the population must be large enough."""
        if streaming:
            return ("separated needs rounds; use sampling: uniform with an asynchronous aggregator",)
        possible = num_clients // self._started()
        if possible < self.min_separation:
            return (
                f"min_separation = {self.min_separation} needs at least {self.min_separation * self._started()} "
                f"clients, got {num_clients}; lower cohort_size or min_separation (to {possible})",
            )
        return ()

    def _started(self) -> int:
        return selected(self.cohort_size, self.over_selection)

    def expected_cohort(self, num_clients: int) -> float:
        """``cohort_size``."""
        return float(self.cohort_size)

    def slots(self, num_clients: int) -> int:
        """``cohort_size``."""
        return self.cohort_size

    def turns(self, num_clients: int) -> int:
        """Cohorts in one walk around the ring."""
        return -(-num_clients // self._started())

    def draw(self, index: int, ready: Ready, last_step: Mapping[int, int], step: int, seed: int) -> list[int]:
        """The ready clients of the next positions on the ring.

        Raises:
            ValueError: the population is too small for the separation.
        """
        problems = self.problems(ready.num_clients, streaming=False)
        if problems:
            raise ValueError(problems[0])
        count = self._started()
        positions = np.arange(index * count, (index + 1) * count) % ready.num_clients
        turn = np.sort(_ring(seed, ready.num_clients)[positions])
        turn = turn[ready.is_ready(turn)].tolist()
        return [c for c in turn if c not in last_step or step - last_step[c] >= self.min_separation]

    def refill(self, index: int, freed: int, ready: Ready, seed: int) -> int | None:
        """Refused: a stream has no cohorts.

        Raises:
            ValueError: always.
        """
        raise ValueError(self.problems(ready.num_clients, streaming=True)[0])

    def claim(self, num_clients: int, streaming: bool) -> SamplingClaim:
        """Every release in full, with the guaranteed separation."""
        if streaming:
            return SamplingClaim("none")
        return SamplingClaim("separated", min_separation=self.min_separation)


@lru_cache(maxsize=4)
def _ring(seed: int, num_clients: int) -> np.ndarray:
    ring = generator(seed, "separated_ring").permutation(num_clients)
    ring.setflags(write=False)
    return ring
