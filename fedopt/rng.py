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

_SEED_BITS = 0x7FFF_FFFF_FFFF_FFFF  # of a seed that torch takes


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


class Rekeyed:
    """One NumPy generator that becomes any stream: the numbers of ``generator`` without making a new one each time.

    Making a generator takes ten times as long as the few numbers a small client needs. Not for several threads.

    >>> float(Rekeyed().at(0, "doc").random()) == float(generator(0, "doc").random())
    True
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, seed: int, purpose: str, *ids: int) -> np.random.Generator:
        """The named stream from its beginning; ends the one before."""
        name = key(seed, purpose, *ids)
        self._state["state"]["key"] = np.frombuffer(name.to_bytes(16, "little"), np.uint64)
        self._bits.state = self._state
        return self._generator


def torch_generator(device: str | torch.device, seed: int, purpose: str, *ids: int) -> torch.Generator:
    """Torch generator of a named stream on a device. CPU and CUDA streams of one name differ.

    On a CPU torch keeps 32 bits of a seed, so that of 77,000 streams (clients times tasks) two would most likely be the
    same. There its Mersenne twister starts from a whole state, made by SHAKE-128 from all 128 bits of the key.

    The ``meta`` device has no numbers and no generator; it takes the CPU's.
    """
    import torch

    place, name = torch.device(device), key(seed, purpose, *ids)
    made = torch.Generator(device="cpu" if place.type == "meta" else place)
    if made.device.type == "cpu":
        made.set_state(torch.from_numpy(_twister_state(name)))
    else:
        made.manual_seed(name & _SEED_BITS)
    return made


def _twister_state(name: int) -> np.ndarray:
    """State of torch's generator on a CPU as it stores it ``[5056]`` uint8, with words from a 128-bit key.

    In 64-bit words: the seed; how many numbers are left (1: make new ones first) beside whether there is a seed; the
    next place; the twister's 624 words of 32 bits; what was left over of the last normals (nothing).
    """
    state = np.zeros(632, np.uint64)
    state[0], state[1] = name & _SEED_BITS, 1 | 1 << 32
    state[3:627] = np.frombuffer(hashlib.shake_128(name.to_bytes(16, "little")).digest(4 * 624), "<u4")
    return state.view(np.uint8)


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
