"""Drives a method by hand: replies from plain rows, one server step at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from fedopt.aggregators.base import HOLD, REJECT, Method
from fedopt.engine.base import DenseUpdates
from fedopt.types import Bound, Public, ReplyMeta


@dataclass
class Replies:
    """A reply batch of dense rows."""

    metas: tuple[ReplyMeta, ...]
    weights: tuple[float, ...]
    parts: dict[str, torch.Tensor]
    clipped: float = float("inf")

    def part(self, name: str = "update") -> DenseUpdates:
        return DenseUpdates(self.parts[name])

    def bound(self, name: str = "update") -> Bound:
        return Bound(self.clipped)


@dataclass
class Drive:
    """Helpers of the by-hand tests; vectors are float64 so that equalities are sharp."""

    public: Public = field(default_factory=lambda: Public(num_clients=4, expected_cohort=4))

    @staticmethod
    def vector(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    @staticmethod
    def meta(client: int = 0, **changes: Any) -> ReplyMeta:
        values: dict[str, Any] = dict(
            dispatch_id=client, client=client, version=0, staleness=0, num_examples=1, local_steps=1,
            normalizer=1.0, task=0, contributions=0, gap=1,
        )  # fmt: skip
        return ReplyMeta(**{**values, **changes})

    def admitted(
        self, method: Method, state: Any, rows: list[Any], metas: list[ReplyMeta] | None = None, clipped: float = 1e9,
        **parts: torch.Tensor,
    ) -> Replies:  # fmt: skip
        """A batch of the rows whose replies were admitted; metas default to clients 0, 1, ..."""
        metas = metas or [self.meta(i) for i in range(len(rows))]
        weights = [method.admit(state, m, self.public) for m in metas]
        keep = [i for i, w in enumerate(weights) if w not in (HOLD, REJECT)]
        stacked = torch.stack([self.vector(*row) for row in rows]) if rows else torch.zeros(0, 1, dtype=torch.float64)
        every = {"update": stacked, **parts}
        return Replies(
            tuple(metas[i] for i in keep),
            tuple(float(weights[i]) for i in keep),
            {name: values[keep] for name, values in every.items()},
            clipped,
        )

    def step(self, method: Method, state: Any, rows: list[Any], metas: list[ReplyMeta] | None = None, **parts: Any):
        """One server step without a mechanism; returns the new state."""
        reduced = method.reduce(state, self.admitted(method, state, rows, metas, **parts), self.public)
        return method.step(state, {name: value for name, (value, _) in reduced.items()}, self.public).state


@pytest.fixture
def drive() -> Drive:
    """Four clients, no privacy."""
    return Drive()


@pytest.fixture
def drive_with():
    """Drive with other public facts."""
    return lambda **facts: Drive(Public(**{"num_clients": 4, "expected_cohort": 4, **facts}))
