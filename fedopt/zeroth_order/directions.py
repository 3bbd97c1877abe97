"""Random directions as counter-based streams: a key instead of a vector, the same for everybody who holds the key.

Directions are made block by block, so a model of any size is perturbed with a few hundred kilobytes of scratch, and
any way of cutting the vector gives the same bits. Rademacher directions are pure integer work and therefore the
same on CPU and CUDA. Gaussian ones come from NumPy's Philox on the CPU, the canonical device, and are copied.
PyTorch's own CPU generator is not used: it keeps 32 bits of its seed, so streams would repeat after some 77,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from fedopt.zeroth_order._philox import WORDS_PER_BLOCK, key_tensor, words

DirectionKind = Literal["rademacher", "gaussian", "sphere", "coordinate"]

_SIGNS_PER_BLOCK = 32 * WORDS_PER_BLOCK
_GAUSSIAN_BLOCK = 1 << 16  # normals per NumPy generator
_CPU_CHUNK = 1 << 17  # elements worked on at a time: stays in cache
_WORDS_CHUNK = 1 << 20  # elements whose random words are made at a time
_CUDA_CHUNK = 1 << 24


@dataclass(frozen=True)
class Directions:
    """A stream of random directions z_0, z_1, ... of one dimension, all from one key.

    Args:
        kind: ``rademacher`` (entries +1 or -1), ``gaussian`` (N(0, 1)), ``sphere`` (uniform on the unit sphere; an
            estimate needs the factor d) or ``coordinate`` (a uniformly drawn unit vector; factor d).
        dimension: d, number of entries.
        key: 128-bit key from `fedopt.rng.key`.

    Guarantees: entries depend only on (kind, key, index, position), not on chunking, device or thread count. `sphere`
    also depends on the dimension.
    """

    kind: DirectionKind
    dimension: int
    key: int

    def __post_init__(self) -> None:
        if self.kind not in ("rademacher", "gaussian", "sphere", "coordinate"):
            raise ValueError(f"unknown kind of direction {self.kind!r}; use rademacher, gaussian, sphere or coordinate")
        if self.dimension < 1:
            raise ValueError(f"a direction needs at least one entry, got dimension {self.dimension}")
        key_tensor([self.key])

    def block(
        self,
        start: int,
        stop: int,
        index: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Entries ``start .. stop - 1`` of direction ``index``: ``[stop - start]``."""
        if not 0 <= start <= stop <= self.dimension:
            raise ValueError(f"block [{start}, {stop}) does not lie in [0, {self.dimension})")
        if start == stop:
            return torch.empty(0, device=device, dtype=dtype)
        if self.kind == "rademacher":
            keys = key_tensor([self.key], device)
            number = torch.tensor([index], device=device)
            return _sign_rows(keys, number, start, stop, dtype)[0]
        if self.kind == "coordinate":
            made = torch.zeros(stop - start, device=device, dtype=dtype)
            hot = _coordinate(self.key, index, self.dimension)
            if start <= hot < stop:
                made[hot - start] = 1
            return made
        normals = torch.from_numpy(_gaussian(self.key, index, start, stop))
        if self.kind == "sphere":
            normals = (normals.double() / _gaussian_norm(self.key, index, self.dimension)).float()
        return normals.to(device=device, dtype=dtype)

    def matrix(
        self, count: int, first_index: int = 0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """``count`` whole directions as rows ``[count, d]``; only for small dimensions."""
        return batch(self.kind, self.dimension, [self.key], count, first_index, device, dtype)[0]

    def add_(self, theta: torch.Tensor, scales: float | Sequence[float], first_index: int = 0) -> torch.Tensor:
        """``theta += scales[k] * z_{first_index + k}`` for k in order, in place, in blocks.

        Each scale is rounded to theta's type, multiplied, rounded, and added: separate operations, so the bits do
        not depend on fused arithmetic. Adding K scales at once gives the bits of K calls.

        Args:
            theta: ``[d]``, contiguous, floating point.
            scales: one scale or one per direction.
            first_index: number of the first direction.
        """
        factors = [float(scales)] if isinstance(scales, (int, float)) else [float(s) for s in scales]
        self._check(theta)
        for start, stop, signs in self._walk(theta, len(factors), first_index):
            target = theta[start:stop]
            for k, scale in enumerate(factors):
                if signs is not None:
                    target.add_(_expand(signs[k], theta.dtype, scale)[: stop - start])
                else:
                    target.add_(self.block(start, stop, first_index + k, theta.device, theta.dtype).mul_(scale))
        return theta

    def pair(self, theta: torch.Tensor, radius: float, index: int = 0) -> torch.Tensor:
        """``[2, d]``: ``theta + radius z`` and ``theta - radius z``, the direction made once.

        Both are copies, so theta keeps its bits (perturbing back and forth in place would not).
        """
        self._check(theta)
        made = theta.new_empty(2, self.dimension)
        for start, stop, signs in self._walk(theta, 1, index):
            if signs is not None:
                step = _expand(signs[0], theta.dtype, radius)[: stop - start]
            else:
                step = self.block(start, stop, index, theta.device, theta.dtype).mul_(radius)
            torch.add(theta[start:stop], step, out=made[0, start:stop])
            torch.sub(theta[start:stop], step, out=made[1, start:stop])
        return made

    def dot(self, vector: torch.Tensor, index: int = 0) -> float:
        """Inner product of direction ``index`` with a vector ``[d]``, summed in float64 over fixed blocks."""
        self._check(vector)
        total = 0.0
        for start in range(0, self.dimension, _GAUSSIAN_BLOCK):
            stop = min(start + _GAUSSIAN_BLOCK, self.dimension)
            part = self.block(start, stop, index, vector.device, torch.float64)
            total += float(part @ vector[start:stop].double())
        return total

    def _check(self, vector: torch.Tensor) -> None:
        if vector.shape != (self.dimension,) or not vector.is_floating_point() or not vector.is_contiguous():
            raise ValueError(
                f"needs a contiguous floating-point vector of shape ({self.dimension},), got {vector.dtype} with "
                f"shape {tuple(vector.shape)}; flatten the parameters first"
            )

    def _walk(self, theta: torch.Tensor, count: int, first: int) -> Iterator[tuple[int, int, torch.Tensor | None]]:
        """Blocks of the vector with the packed signs of ``count`` directions ``[count, words]`` (None if not signs)."""
        if self.kind != "rademacher":
            for start in range(0, self.dimension, _GAUSSIAN_BLOCK):
                yield start, min(start + _GAUSSIAN_BLOCK, self.dimension), None
            return
        keys = key_tensor([self.key], theta.device).expand(count, -1)
        indices = torch.arange(first, first + count, device=theta.device)
        on_cpu = theta.device.type == "cpu"
        outer, inner = (_WORDS_CHUNK, _CPU_CHUNK) if on_cpu else (_CUDA_CHUNK, _CUDA_CHUNK)
        for base in range(0, self.dimension, outer):
            end = min(base + outer, self.dimension)
            packed = words(keys, indices, base // _SIGNS_PER_BLOCK, -(-end // _SIGNS_PER_BLOCK)).int()
            for start in range(base, end, inner):
                yield start, min(start + inner, end), packed[:, (start - base) // 32 : (start + inner - base) // 32]


def batch(
    kind: DirectionKind,
    dimension: int,
    keys: Sequence[int],
    count: int,
    first_index: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Directions ``first_index .. first_index + count - 1`` of several streams: ``[len(keys), count, d]``.

    For dimensions where the result fits in memory: perturbations that are evaluated as one batch. Entries equal
    those of `Directions.block`.
    """
    if kind == "rademacher":
        tensor = key_tensor(keys, device).repeat_interleave(count, 0)
        numbers = torch.arange(first_index, first_index + count, device=device).repeat(len(keys))
        return _sign_rows(tensor, numbers, 0, dimension, dtype).view(len(keys), count, dimension)
    streams = [Directions(kind, dimension, key) for key in keys]
    rows = [s.block(0, dimension, i, dtype=dtype) for s in streams for i in range(first_index, first_index + count)]
    return torch.stack(rows).view(len(keys), count, dimension).to(device)


def orthonormal(
    dimension: int,
    keys: Sequence[int],
    count: int,
    first_index: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Orthonormal directions, uniformly distributed: ``[len(keys), count, d]``, by QR of Gaussian ones.

    Made on the CPU in float64 and copied. Signs are fixed so that the frame is the Gram-Schmidt result.

    Raises:
        ValueError: more directions than dimensions.
    """
    if count > dimension:
        raise ValueError(
            f"at most {dimension} directions are orthogonal in dimension {dimension}, asked for {count}; lower count, "
            "or take directions of another kind"
        )
    gaussian = batch("gaussian", dimension, keys, count, first_index, dtype=torch.float64)
    frame, triangle = torch.linalg.qr(gaussian.mT)
    signs = triangle.diagonal(dim1=-2, dim2=-1).sign()
    return (frame * signs[:, None, :]).mT.contiguous().to(device=device, dtype=dtype)


def distinct_coordinates(
    dimension: int,
    keys: Sequence[int],
    count: int,
    first_index: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Different unit vectors, drawn without replacement: ``[len(keys), count, d]``; with count = d all of them.

    Raises:
        ValueError: more directions than dimensions.
    """
    if count > dimension:
        raise ValueError(f"there are {dimension} coordinates, asked for {count} different ones; lower count")
    made = torch.zeros(len(keys), count, dimension, device=device, dtype=dtype)
    for row, key in enumerate(keys):
        stream = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 1, first_index]))
        chosen = torch.from_numpy(stream.choice(dimension, size=count, replace=False))
        made[row, torch.arange(count, device=device), chosen.to(device)] = 1
    return made


def uniform(
    keys: Sequence[int],
    count: int,
    index: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Uniform numbers in (0, 1), ``[len(keys), count]``: mid-points of 2**32 (float64) equal cells, on any device.

    In float32 the value is rounded and may equal 1.
    """
    tensor = key_tensor(keys, device)
    numbers = torch.full((len(keys),), index, dtype=torch.int64, device=device)
    made = words(tensor, numbers, 0, -(-count // WORDS_PER_BLOCK))[:, :count]
    return made.to(torch.float64).add_(0.5).mul_(2.0**-32).to(dtype)


def _sign_rows(keys: torch.Tensor, indices: torch.Tensor, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
    """Signs ``[rows, stop - start]`` of one direction per row."""
    first, last = start // _SIGNS_PER_BLOCK, -(-stop // _SIGNS_PER_BLOCK)
    packed = words(keys, indices, first, last).int()
    signs = _expand(packed.flatten(), dtype, 1.0).view(len(keys), -1)
    offset = start - first * _SIGNS_PER_BLOCK
    return signs[:, offset : offset + stop - start]


def _expand(packed: torch.Tensor, dtype: torch.dtype, scale: float) -> torch.Tensor:
    """32 signed copies of ``scale`` per 32-bit word, lowest bit first; a set bit is a minus."""
    table = _sign_table(dtype, packed.device) * scale
    return table.index_select(0, packed.contiguous().view(torch.uint8).int()).view(-1)


@lru_cache(maxsize=16)
def _sign_table(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The eight signs of every byte: ``[256, 8]``. Copying rows of it is faster than shifting bits."""
    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return (1 - 2 * bits).to(device=device, dtype=dtype)


def _gaussian(key: int, index: int, start: int, stop: int) -> np.ndarray:
    """Entries of a Gaussian direction, float32; every block of 65,536 has its own counter range."""
    parts = []
    for number in range(start // _GAUSSIAN_BLOCK, -(-stop // _GAUSSIAN_BLOCK)):
        base = number * _GAUSSIAN_BLOCK
        stream = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, index]))
        made = stream.standard_normal(min(stop - base, _GAUSSIAN_BLOCK), dtype=np.float32)
        parts.append(made[max(start - base, 0) :])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@lru_cache(maxsize=256)
def _gaussian_norm(key: int, index: int, dimension: int) -> float:
    total = 0.0
    for start in range(0, dimension, _GAUSSIAN_BLOCK):
        part = _gaussian(key, index, start, min(start + _GAUSSIAN_BLOCK, dimension)).astype(np.float64)
        total += float(np.sum(part * part))
    return total**0.5


def _coordinate(key: int, index: int, dimension: int) -> int:
    return int(np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index])).integers(dimension))
