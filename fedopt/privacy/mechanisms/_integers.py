"""Integer messages: modular sums, signed Hadamard rotation, conditional stochastic rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from fedopt.privacy.base import Draws


@dataclass(frozen=True)
class IntegerUpdates:
    """Integer rows that can only be summed, modulo ``modulus`` where there is one (simulated secure aggregation).

    Sums are exact: they are returned as float64 integers below 2^53.

    Args:
        values: ``[rows, d]`` int64.
        modulus: or None.
    """

    values: torch.Tensor
    modulus: int | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum of all rows ``[d]`` float64.

        Raises:
            ValueError: weights other than 1: the sum is closed.
        """
        if any(weight != 1.0 for weight in weights.tolist()):
            raise ValueError("a closed sum of integers has no weights; use uniform weights and staleness: constant")
        total = self.values.sum(0)
        return (total if self.modulus is None else total % self.modulus).double()

    def norms(self) -> torch.Tensor:
        """Refused."""
        raise ValueError("single messages are hidden: only their sum can be seen; use an aggregator that only sums")

    def scaled(self, factors: torch.Tensor) -> IntegerUpdates:
        """Refused."""
        raise ValueError("single messages are hidden: only their sum can be seen; use an aggregator that only sums")

    def take(self, index: Sequence[int]) -> IntegerUpdates:
        """Selected rows."""
        return IntegerUpdates(self.values[list(index)], self.modulus)

    def rows(self) -> torch.Tensor:
        """Refused."""
        raise ValueError("single messages are hidden: only their sum can be seen; use an aggregator that only sums")


def padded(dimension: int) -> int:
    """Next power of two.

    >>> padded(1), padded(5), padded(8)
    (1, 8, 8)
    """
    return 1 << (dimension - 1).bit_length()


def hadamard(rows: torch.Tensor) -> torch.Tensor:
    """Orthonormal Walsh-Hadamard transform of rows ``[..., 2^k]``; its own inverse."""
    import torch

    size = rows.shape[-1]
    out = rows
    half = 1
    while half < size:
        pairs = out.reshape(*rows.shape[:-1], size // (2 * half), 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        out = torch.stack((first + second, first - second), dim=-2).reshape(rows.shape)
        half *= 2
    return out / math.sqrt(size)


def rotate(rows: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Random signs, then Hadamard: spreads a vector evenly over its coordinates; norms are kept."""
    return hadamard(rows * signs)


def unrotate(vector: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Inverse of ``rotate``."""
    return hadamard(vector) * signs


def rounded_norm(scaled_norm: float, dimension: int, beta: float) -> float:
    """Norm bound that conditional rounding enforces, in integer units.

    ``min(c + sqrt(d), sqrt(c^2 + d/4 + sqrt(2 log(1/beta)) (c + sqrt(d)/2)))`` with c the scaled clipping norm.

    References: Kairouz, Liu, Steinke 2021, The Distributed Discrete Gaussian Mechanism, Prop. 22, arXiv:2102.06387.

    >>> round(rounded_norm(100, 10_000, 2.718281828459045**-0.5), 3)
    112.472
    """
    c, root = scaled_norm, math.sqrt(dimension)
    usual = math.sqrt(c * c + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (c + root / 2))
    return min(c + root, usual)


def round_within(row: torch.Tensor, limit: float, draw: Draws) -> torch.Tensor:
    """Unbiased stochastic rounding of a row ``[d]`` float64, redrawn until its norm is at most ``limit``.

    Raises:
        ValueError: no draw fits, so the bound is wrong.
    """

    low = row.floor()
    share = row - low
    for _ in range(1000):
        up = draw.uniform(row.shape, row.dtype) < share
        whole = low + up
        if float(whole.square().sum()) <= limit * limit:
            return whole.long()
    raise ValueError(f"a row of norm {float(row.norm()):g} was not rounded within {limit:g}; raise rounding_share")
