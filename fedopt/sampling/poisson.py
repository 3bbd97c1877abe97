"""Poisson sampling: an independent coin per client."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field, model_validator

from fedopt.rng import generator
from fedopt.sampling._draws import draw_one
from fedopt.sampling.base import Ready, Sampler, SamplingClaim


class Poisson(Sampler):
    """Every client tosses its own coin; cohorts vary in size and may be empty: such a round is a step of no replies.

    The probability is given, or ``cohort_size`` divided by the population.

    Guarantees: a client's coin does not depend on who is ready. The claimed amplification holds only if every client
    is always ready (``availability: always``, no participation limit in reach): a client that is absent when its coin
    falls takes part with a smaller, data-independent but not uniform probability. With a deadline, or in a stream,
    none is claimed.

    References: Mironov, Talwar, Zhang 2019, Renyi Differential Privacy of the Sampled Gaussian Mechanism,
    arXiv:1908.10530.
    """

    probability: float | None = Field(None, gt=0, le=1, description="probability of each client, in (0, 1]")
    cohort_size: float | None = Field(None, gt=0, description="expected clients per round; instead of probability")

    @model_validator(mode="after")
    def _one_rate(self) -> Poisson:
        if (self.probability is None) == (self.cohort_size is None):
            raise ValueError("give exactly one of probability and cohort_size")
        if self.over_selection != 1:
            raise ValueError("over_selection must be 1: cutting a Poisson cohort voids its amplification; use fixed")
        return self

    def sampling_probability(self, num_clients: int) -> float:
        """Probability of one client's coin.

        >>> Poisson(cohort_size=5.0).sampling_probability(100)
        0.05
        """
        if self.probability is not None:
            return self.probability
        assert self.cohort_size is not None
        return min(1.0, self.cohort_size / num_clients)

    def expected_cohort(self, num_clients: int) -> float:
        """Probability times population."""
        return self.sampling_probability(num_clients) * num_clients

    def slots(self, num_clients: int) -> int:
        """The expected cohort, rounded up."""
        return min(num_clients, math.ceil(self.expected_cohort(num_clients)))

    def draw(self, index: int, ready: Ready, last_step: Mapping[int, int], step: int, seed: int) -> list[int]:
        """Ready clients whose coin fell; may be empty."""
        coins = generator(seed, "sampling", index).random(ready.num_clients)
        chosen = np.flatnonzero(coins < self.sampling_probability(ready.num_clients))
        return chosen[ready.is_ready(chosen)].tolist()

    def refill(self, index: int, freed: int, ready: Ready, seed: int) -> int | None:
        """A ready client, uniformly."""
        return draw_one(ready, generator(seed, "refill", index))

    def claim(self, num_clients: int, streaming: bool) -> SamplingClaim:
        """Poisson amplification under round pacing without a deadline, else none."""
        if streaming or self.deadline_s is not None:
            return SamplingClaim("none")
        return SamplingClaim("poisson", self.sampling_probability(num_clients))
