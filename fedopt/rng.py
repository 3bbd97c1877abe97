"""Named random streams: every draw is keyed by (seed, purpose, ids...), never by when it happens.

Because a stream depends only on its name, changing the aggregator changes neither delays nor batches, a resumed
run draws the same numbers as an uninterrupted one, and the order in which clients are computed does not matter.
These streams are for simulation. Deployed privacy noise never comes from here but from the operating system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key(seed: int, purpose: str, *ids: int) -> int:
    """128-bit key of a stream, by hashing its name: distinct names give independent streams.

    Args:
        seed: the run's seed, any integer.
        purpose: what the stream is for, for example ``"batches"``.
        ids: integers that name the stream within its purpose (client, task, step ...).

    >>> key(0, "batches", 3, 1) == key(0, "batches", 3, 1), key(0, "batches", 3, 1) == key(0, "batches", 31)
    (True, False)
    """
    text = "\x1f".join((str(seed), purpose, *map(str, ids)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """NumPy generator (Philox, counter-based) of a named stream.

    >>> float(generator(0, "doc").random()) == float(generator(0, "doc").random())
    True
    """
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *ids)))


def torch_generator(device: str | torch.device, seed: int, purpose: str, *ids: int) -> torch.Generator:
    """Torch generator of a named stream on a device. CPU and CUDA streams of one name differ.

    On a CPU torch keeps 32 bits of a seed: among k streams about k^2 / 2^33 pairs are the same, so with 77,000 streams
    (clients times tasks) a repeated one is more likely than not. Simulated noise bears that; deployed noise does not
    come from here.

    The ``meta`` device has no numbers and no generator; it takes the CPU's.
    """
    import torch

    place = torch.device(device)
    made = torch.Generator(device="cpu" if place.type == "meta" else place)
    made.manual_seed(key(seed, purpose, *ids) & 0x7FFF_FFFF_FFFF_FFFF)
    return made


class TorchDraws:
    """Draws of one stream from a torch generator, in the order asked for.

    Args:
        generator: fresh, used by nobody else.
    """

    def __init__(self, generator: torch.Generator):
        self._generator = generator

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Standard normals."""
        import torch

        return torch.randn(tuple(shape), generator=self._generator, device=self._generator.device, dtype=dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Uniform in [0, 1)."""
        import torch

        return torch.rand(tuple(shape), generator=self._generator, device=self._generator.device, dtype=dtype)

    def exponential(self, shape: Sequence[int]) -> torch.Tensor:
        """Exponentials of mean 1, float64."""
        import torch

        made = torch.empty(tuple(shape), device=self._generator.device, dtype=torch.float64)
        return made.exponential_(1.0, generator=self._generator)

    def poisson(self, rate: float, shape: Sequence[int]) -> torch.Tensor:
        """Poisson counts of this mean, int64."""
        import torch

        rates = torch.full(tuple(shape), rate, device=self._generator.device, dtype=torch.float64)
        return torch.poisson(rates, generator=self._generator).long()

    def binomial(self, trials: int, probability: float, shape: Sequence[int]) -> torch.Tensor:
        """Numbers of successes, int64."""
        import torch

        counts = torch.full(tuple(shape), float(trials), device=self._generator.device, dtype=torch.float64)
        chances = torch.full_like(counts, probability)
        return torch.binomial(counts, chances, generator=self._generator).long()
