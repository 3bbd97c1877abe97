"""Everybody takes part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import model_validator

from fedopt.sampling._draws import ready_clients
from fedopt.sampling.base import Ready, Sampler, SamplingClaim

_BLOCK = 4096


class All(Sampler):
    """Every ready client, every time; in a stream every client has its own slot.

    Guarantees: a stream gives a freed slot back to the client that left it. If that client is not ready, the slot goes
    to the smallest ready id, or stays empty.
    """

    @model_validator(mode="after")
    def _nobody_is_left_over(self) -> All:
        if self.over_selection != 1:
            raise ValueError("over_selection must be 1 when all clients take part; use sampling: fixed")
        return self

    def expected_cohort(self, num_clients: int) -> float:
        """The population."""
        return float(num_clients)

    def slots(self, num_clients: int) -> int:
        """The population."""
        return num_clients

    def draw(self, index: int, ready: Ready, last_step: Mapping[int, int], step: int, seed: int) -> list[int]:
        """All ready clients."""
        return ready_clients(ready).tolist()

    def refill(self, index: int, freed: int, ready: Ready, seed: int) -> int | None:
        """The freed client; for a new slot client ``index``; else the smallest ready one."""
        wanted = freed if freed >= 0 else index
        if wanted < ready.num_clients and ready.is_ready(np.array([wanted]))[0]:
            return wanted
        for start in range(0, ready.num_clients, _BLOCK):
            block = np.arange(start, min(start + _BLOCK, ready.num_clients))
            found = block[ready.is_ready(block)]
            if len(found):
                return int(found[0])
        return None

    def claim(self, num_clients: int, streaming: bool) -> SamplingClaim:
        """No amplification: nothing is sampled."""
        return SamplingClaim("none")
