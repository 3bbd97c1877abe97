"""A stream of uniformly drawn clients."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from fedopt.rng import generator
from fedopt.sampling._draws import draw_one, draw_ready, selected
from fedopt.sampling.base import Ready, Sampler, SamplingClaim


class Uniform(Sampler):
    """Keeps a number of clients in flight; every free slot goes to a uniformly drawn ready client.

    Under round pacing it draws ``concurrency`` clients per round, without replacement. Drawing one client out of a
    million costs as much as out of a thousand.

    Guarantees: a client is never in flight twice, since it is not ready while it works. No amplification is claimed:
    who is idle depends on who was drawn before.
    """

    concurrency: int = Field(10, ge=1, description="clients in flight at the same time")

    def expected_cohort(self, num_clients: int) -> float:
        """``concurrency``, or the population if it is smaller."""
        return float(self.slots(num_clients))

    def slots(self, num_clients: int) -> int:
        """Slots, at most one per client."""
        return min(self.concurrency, num_clients)

    def draw(self, index: int, ready: Ready, last_step: Mapping[int, int], step: int, seed: int) -> list[int]:
        """A uniform draw without replacement."""
        return draw_ready(selected(self.concurrency, self.over_selection), ready, generator(seed, "sampling", index))

    def refill(self, index: int, freed: int, ready: Ready, seed: int) -> int | None:
        """A ready client, uniformly."""
        return draw_one(ready, generator(seed, "refill", index))

    def claim(self, num_clients: int, streaming: bool) -> SamplingClaim:
        """No amplification."""
        return SamplingClaim("none")
