"""Privacy noise of a deployment: a cryptographic generator keyed by the operating system.

A key of 32 bytes comes from ``os.urandom``. A stream is the extendable output of SHAKE-256 over the key and the ids of
the draw, so that streams are independent, nobody without the key can predict one from any number of others, and the
same ids give the same noise as long as the key lives (updates are summed more than once; a tree must not draw a node
twice). Keys differ between processes unless one is handed over.

Normals are Box-Muller transforms of 53-bit uniforms in float64; every one returned is the sum of four, halved, which
keeps the low bits of a floating-point sum from naming the value below it (Holohan and Braghin 2021, arXiv:2107.10138).
Integer noise inverts a table of the distribution at a 53-bit uniform: exact up to 2^-53 of probability per draw.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

KEY_BYTES = 32
_BLOCK = 1 << 20  # uniforms made by one call of the hash
_TAIL = 9.0  # standard deviations beyond which less than 2^-53 of the probability lies
_LARGEST_VARIANCE = 1e11  # of integer noise: its table has 18 standard deviations


class SystemDraws:
    """Draws of one stream, in the order asked for.

    Args:
        key: secret, with the ids of the stream.
        device: where results go.
    """

    def __init__(self, key: bytes, device: Any):
        self._key, self._device, self._blocks = key, device, 0

    def _uniforms(self, count: int) -> np.ndarray:
        """Uniform in (0, 1): odd multiples of 2^-54, so never 0 or 1."""
        made = np.empty(count)
        for begin in range(0, count, _BLOCK):
            size = min(_BLOCK, count - begin)
            stream = hashlib.shake_256(self._key + self._blocks.to_bytes(8, "little")).digest(8 * size)
            self._blocks += 1
            words = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
            made[begin : begin + size] = (words.astype(np.float64) + 0.5) * 2.0**-53
        return made

    def _tensor(self, values: np.ndarray, shape: Sequence[int], dtype: torch.dtype | None) -> torch.Tensor:
        import torch

        return torch.from_numpy(values.reshape(tuple(shape))).to(self._device, dtype or torch.float32)

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Standard normals."""
        count = math.prod(shape)
        half = (4 * count + 1) // 2
        radius = np.sqrt(-2 * np.log(self._uniforms(half)))
        angle = 2 * math.pi * self._uniforms(half)
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: 4 * count]
        return self._tensor(both.reshape(4, count).sum(0) / 2, shape, dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Uniform in [0, 1)."""
        import torch

        values = self._uniforms(math.prod(shape))
        if dtype is None or dtype == torch.float32:
            values = np.floor(values * 2**24) * 2.0**-24  # rounding to float32 must not reach 1
        return self._tensor(values, shape, dtype)

    def exponential(self, shape: Sequence[int]) -> torch.Tensor:
        """Exponentials of mean 1, float64."""
        import torch

        return self._tensor(-np.log(self._uniforms(math.prod(shape))), shape, torch.float64)

    def poisson(self, rate: float, shape: Sequence[int]) -> torch.Tensor:
        """Poisson counts of this mean, int64.

        Raises:
            ValueError: a mean above 1e11, whose table would not fit.
        """
        return self._counts(_poisson_table(rate), shape)

    def binomial(self, trials: int, probability: float, shape: Sequence[int]) -> torch.Tensor:
        """Numbers of successes, int64."""
        return self._counts(_binomial_table(trials, probability), shape)

    def _counts(self, table: tuple[int, np.ndarray], shape: Sequence[int]) -> torch.Tensor:
        import torch

        first, cumulative = table
        found = np.searchsorted(cumulative, self._uniforms(math.prod(shape)), side="left")
        return self._tensor(first + found, shape, torch.int64)


class SystemNoise:
    """Privacy noise from the operating system's entropy, for deployments.

    Args:
        key: 32 secret bytes, or None for fresh ones. Give one only to go on after a restart.

    Guarantees: two objects without a given key never share noise; the same ids give the same noise within one.
    """

    def __init__(self, key: bytes | None = None):
        self._key = os.urandom(KEY_BYTES) if key is None else key
        if len(self._key) != KEY_BYTES:
            raise ValueError(f"a noise key has {KEY_BYTES} bytes, got {len(self._key)}")

    @classmethod
    def from_file(cls, path: Path) -> SystemNoise:
        """The key of a file only its owner may read, made where there is none: noise survives a restart.

        Whoever reads the file can remove the noise: delete it when the run is over.
        """
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path.read_bytes())
        key = os.urandom(KEY_BYTES)
        with os.fdopen(handle, "wb") as file:
            file.write(key)
        return cls(key)

    def __repr__(self) -> str:
        return "SystemNoise()"  # never the key

    def draws(self, device: Any, *ids: int) -> SystemDraws:
        """Stream of one draw."""
        return SystemDraws(_derived(self._key, "draw", *ids), device)

    def example_draws(self, device: Any, purpose: str, client: int, task: int) -> SystemDraws:
        """Stream of the noise inside one client's training."""
        return SystemDraws(_derived(self._key, purpose, client, task), device)


def _derived(key: bytes, *names: str | int) -> bytes:
    """Key of a stream: distinct names give independent ones."""
    return hashlib.blake2b("\x1f".join(map(str, names)).encode(), key=key, digest_size=KEY_BYTES).digest()


@lru_cache(maxsize=16)
def _poisson_table(rate: float) -> tuple[int, np.ndarray]:
    """(smallest count, cumulative probabilities) of Poisson(rate), from the mode outwards."""
    if rate > _LARGEST_VARIANCE:
        raise ValueError(f"integer noise of variance {rate:g} is too wide to sample exactly; lower bits or scale")
    mode, reach = math.floor(rate), math.ceil(_TAIL * math.sqrt(rate)) + 60
    up = np.arange(mode + 1, mode + reach + 1, dtype=np.float64)
    down = np.arange(mode, max(0, mode - reach), -1, dtype=np.float64)
    return _cumulative(mode, np.log(rate / up) if rate else np.full(reach, -np.inf), np.log(down / rate))


@lru_cache(maxsize=16)
def _binomial_table(trials: int, probability: float) -> tuple[int, np.ndarray]:
    """(smallest count, cumulative probabilities) of Bin(trials, probability)."""
    mode = min(trials, math.floor((trials + 1) * probability))
    reach = math.ceil(_TAIL * math.sqrt(trials * probability * (1 - probability))) + 60
    odds = math.log(probability) - math.log1p(-probability)
    up = np.arange(mode + 1, min(trials, mode + reach) + 1, dtype=np.float64)
    down = np.arange(mode, max(0, mode - reach), -1, dtype=np.float64)
    return _cumulative(mode, np.log((trials - up + 1) / up) + odds, np.log(down / (trials - down + 1)) - odds)


def _cumulative(mode: int, up: np.ndarray, down: np.ndarray) -> tuple[int, np.ndarray]:
    """Cumulative probabilities from the logarithms of successive ratios away from the mode."""
    masses = np.concatenate([np.exp(np.cumsum(down))[::-1], [1.0], np.exp(np.cumsum(up))])
    cumulative = np.cumsum(masses)
    cumulative /= cumulative[-1]
    return mode - len(down), cumulative
