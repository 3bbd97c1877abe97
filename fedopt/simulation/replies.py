"""What the computed replies of a cohort add up to: the form in which a method reduces them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedopt.engine.base import ConcatUpdates, UpdateBatch
from fedopt.engine.updates import ReorderedUpdates
from fedopt.types import Bound, ReplyMeta

UNBOUNDED = Bound(float("inf"))


def anonymous(metas: tuple[ReplyMeta, ...], order: Sequence[int]) -> tuple[tuple[ReplyMeta, ...], list[int]]:
    """What a shuffler passes on: as many metas that say nothing, and the ids of the rows in another order.

    Args:
        metas: of the replies.
        order: positions, drawn uniformly and shown to nobody.
    """
    nobody = ReplyMeta(-1, -1, version=-1, staleness=0, num_examples=0, local_steps=0, normalizer=0.0, task=-1)
    return (nobody,) * len(metas), [metas[position].dispatch_id for position in order]


class Part:
    """One named part of the surviving replies, with the sum for the admitted weights already made."""

    def __init__(self, batch: UpdateBatch | None, weights: tuple[float, ...], total: torch.Tensor | None):
        self._batch, self._weights, self._total = batch, weights, total

    def __len__(self) -> int:
        return len(self._weights)

    def _kept(self) -> UpdateBatch:
        if self._batch is None:
            raise ValueError(
                "this aggregator needs every client's update at once, but the cohort was reduced in a stream because "
                "its updates do not fit engine.memory_gib; raise it, or use a smaller cohort or a mean"
            )
        return self._batch

    def weighted_sum(self, weights: torch.Tensor) -> torch.Tensor:
        if self._total is not None and tuple(weights.tolist()) == self._weights:
            return self._total
        return self._kept().weighted_sum(weights)

    def norms(self) -> torch.Tensor:
        return self._kept().norms()

    def scaled(self, factors: torch.Tensor) -> UpdateBatch:
        return self._kept().scaled(factors)

    def take(self, index: Any) -> UpdateBatch:
        return self._kept().take(index)

    def rows(self) -> torch.Tensor:
        return self._kept().rows()


@dataclass(frozen=True)
class Replies:
    """Surviving replies, as a method's ``reduce`` sees them (a ``ReplyBatch``)."""

    metas: tuple[ReplyMeta, ...]
    weights: tuple[float, ...]
    parts: dict[str, Part]
    bound_of: Callable[[str], Bound]

    def part(self, name: str = "update") -> UpdateBatch:
        """The named part."""
        return self.parts[name]

    def bound(self, name: str = "update") -> Bound:
        """Bound of one client's contribution."""
        return self.bound_of(name)


def totals_of(
    parts: dict[str, UpdateBatch], weights: list[float], unweighted: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Weighted sum of every part ``[d]``; parts named in ``unweighted`` are added up as they are."""
    vector = torch.tensor(weights, dtype=torch.float64)
    ones = torch.ones_like(vector)
    return {name: batch.weighted_sum(ones if name in unweighted else vector) for name, batch in parts.items()}


class Gathered:
    """What the pieces of a cohort add up to."""

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor] = {}
        self.pieces: dict[str, list[UpdateBatch]] = {}
        self.ids: list[int] = []  # of the rows, in the order in which they were added up
        self.kept = True
        self.metrics: dict[str, list[float]] = {}
        self.failed: dict[int, str] = {}

    def add(
        self,
        parts: dict[str, UpdateBatch],
        ids: list[int],
        totals: dict[str, torch.Tensor],
        metrics: dict[str, list[float]],
        failed: dict[int, str],
        keep: bool,
    ) -> None:
        self.failed |= failed
        self.kept = self.kept and keep
        if not ids:
            return
        self.ids += ids
        for name, total in totals.items():
            self.totals[name] = self.totals[name] + total if name in self.totals else total
        if keep:
            for name, batch in parts.items():
                self.pieces.setdefault(name, []).append(batch)
        for name, values in metrics.items():
            self.metrics.setdefault(name, []).extend(values)

    def part(self, name: str, weights: tuple[float, ...], order: list[int]) -> Part:
        """A part with its rows in this order of ids."""
        pieces = self.pieces.get(name, [])
        batch: UpdateBatch | None = None
        if self.kept:
            batch = pieces[0] if len(pieces) == 1 else ConcatUpdates(tuple(pieces))
            if order != self.ids:
                place = {i: row for row, i in enumerate(self.ids)}
                batch = ReorderedUpdates(batch, tuple(place[i] for i in order))
        return Part(batch, weights, self.totals[name])

    def means(self) -> dict[str, float]:
        """Mean of every metric over the survivors."""
        return {name: sum(values) / len(values) for name, values in self.metrics.items() if values}
