"""Update batches that carry noise of their own, drawn per client and only when summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.base import Noise


@dataclass(frozen=True)
class NoisyUpdates:
    """Rows plus independent Gaussian noise of their own, without building rows.

    The noise of a row is fixed by its ids, so every operation sees the same numbers.

    Args:
        inner: rows before noise.
        stds: noise std of every row ``[rows]``.
        ids: names of every row's noise.
        noise: source of randomness.
        dimension: d.
    """

    inner: UpdateBatch
    stds: tuple[float, ...]
    ids: tuple[tuple[int, ...], ...]
    noise: Noise
    dimension: int

    def __len__(self) -> int:
        return len(self.ids)

    def _draw(self, row: int, like: torch.Tensor) -> torch.Tensor:
        return self.noise.draws(like.device, *self.ids[row]).normal((self.dimension,), like.dtype).mul_(self.stds[row])

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sum of rows and noise."""
        total = self.inner.weighted_sum(weights)
        for row, weight in enumerate(weights.tolist()):
            total = total + weight * self._draw(row, total)
        return total

    def rows(self) -> torch.Tensor:
        """Rows with their noise."""
        import torch

        plain = self.inner.rows()
        return plain + torch.stack([self._draw(row, plain) for row in range(len(self))])

    def norms(self) -> torch.Tensor:
        """Norms with noise."""
        return self.rows().norm(dim=1)

    def scaled(self, factors: torch.Tensor) -> UpdateBatch:
        """Scaled rows and noise."""
        stds = tuple(std * factor for std, factor in zip(self.stds, factors.tolist(), strict=True))
        return replace(self, inner=self.inner.scaled(factors), stds=stds)

    def take(self, index: Sequence[int]) -> UpdateBatch:
        """Selected rows."""
        chosen = list(index)
        return replace(
            self,
            inner=self.inner.take(chosen),
            stds=tuple(self.stds[i] for i in chosen),
            ids=tuple(self.ids[i] for i in chosen),
        )
