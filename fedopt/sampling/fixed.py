"""A cohort of fixed size."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from fedopt.rng import generator
from fedopt.sampling._draws import draw_one, draw_ready, selected
from fedopt.sampling.base import Ready, Sampler, SamplingClaim


class Fixed(Sampler):
    """A fixed number of ready clients, drawn uniformly without replacement.

    Guarantees: exactly ``ceil(over_selection * cohort_size)`` distinct clients, fewer only if fewer are ready. No
    amplification is claimed: the bound for sampling without replacement that accountants offer is not valid for the
    relations used here.
    """

    cohort_size: int = Field(10, ge=1, description="clients per round whose replies are wanted; slots of a stream")

    def expected_cohort(self, num_clients: int) -> float:
        """``cohort_size``, or the population if it is smaller."""
        return float(min(self.cohort_size, num_clients))

    def slots(self, num_clients: int) -> int:
        """``cohort_size`` slots, at most one per client."""
        return min(self.cohort_size, num_clients)

    def draw(self, index: int, ready: Ready, last_step: Mapping[int, int], step: int, seed: int) -> list[int]:
        """A uniform draw without replacement."""
        count = selected(self.cohort_size, self.over_selection)
        return draw_ready(count, ready, generator(seed, "sampling", index))

    def refill(self, index: int, freed: int, ready: Ready, seed: int) -> int | None:
        """A ready client, uniformly."""
        return draw_one(ready, generator(seed, "refill", index))

    def claim(self, num_clients: int, streaming: bool) -> SamplingClaim:
        """No amplification."""
        return SamplingClaim("none")
