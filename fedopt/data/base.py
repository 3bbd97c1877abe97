"""Federated data: examples once, clients as index ranges into them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from fedopt.components import Settings
from fedopt.types import Task


@dataclass(frozen=True)
class Examples:
    """Examples stored once; clients only hold indices.

    Args:
        inputs: ``[n, *input_shape]`` float32, or integer tokens ``[n, sequence]``.
        targets: ``[n]`` int64 classes, ``[n, outputs]`` float32 for regression, ``[n, sequence]`` for next_token.
        groups: natural owner of every example ``[n]`` (author, region, ...) or None.
    """

    inputs: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class ClientIndex:
    """Which examples each client holds: client i has ``indices[offsets[i]:offsets[i+1]]``. Repeats are allowed.

    Args:
        offsets: ``[clients + 1]`` int64, non-decreasing from 0.
        indices: ``[offsets[-1]]`` int64 into the examples.
    """

    offsets: np.ndarray
    indices: np.ndarray

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.offsets) - 1

    def of(self, client: int) -> np.ndarray:
        """Example indices of one client."""
        return self.indices[self.offsets[client] : self.offsets[client + 1]]

    def sizes(self) -> np.ndarray:
        """n_i ``[clients]`` int64."""
        return np.diff(self.offsets)

    @classmethod
    def from_lists(cls, lists: list[np.ndarray]) -> ClientIndex:
        """Build from one index array per client."""
        sizes = np.array([len(x) for x in lists], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        joined = np.concatenate(lists) if lists else np.zeros(0)
        return cls(offsets, joined.astype(np.int64))


class Objective(Protocol):
    """A function per client known by its values (and gradients where ``has_gradients``). Points are flat.

    Attributes:
        dimension: d.
        num_clients: how many functions f_i there are.
        has_gradients: whether ``gradients`` may be called.
        optimum: minimum of F = mean_i f_i if known, else None.
        initial: starting point ``[d]``, given a seed.
    """

    @property
    def dimension(self) -> int: ...

    @property
    def num_clients(self) -> int: ...

    @property
    def has_gradients(self) -> bool: ...

    @property
    def optimum(self) -> float | None: ...

    def initial(self, seed: int) -> Any:
        """Starting point ``[d]`` float32."""
        ...

    def values(self, clients: Any, points: Any, draw: Any = None) -> Any:
        """f_i at points: clients ``[cohort]``, points ``[cohort, queries, d]`` -> ``[cohort, queries]`` (torch).

        ``draw`` are standard normals ``[cohort, queries]`` from the caller's stream, scaled by the objective's
        noise; None gives exact values.
        """
        ...

    def gradients(self, clients: Any, points: Any) -> Any:
        """Exact gradients, clients ``[cohort]``, points ``[cohort, d]`` -> ``[cohort, d]`` (torch)."""
        ...

    def value(self, point: Any) -> float:
        """F(point) for a flat point ``[d]``: the reported metric (simulator only, not a query)."""
        ...


@dataclass(frozen=True)
class FederatedData:
    """A data set split over clients.

    Args:
        task: what is learned.
        train, test: pooled examples; empty arrays for an objective.
        clients: training examples of every client.
        client_tests: local test share of every client (indices into ``test``), or None.
        transforms: per-client feature shift not yet written into the examples (``fedopt.data._shift.Shift``), or
            None; ``materialised`` applies it.
        objective: set for black_box tasks.
        class_names: for plots.
        source: name, version, licence, where it was found, hash; goes into the run directory.
    """

    task: Task
    train: Examples
    test: Examples
    clients: ClientIndex
    client_tests: ClientIndex | None = None
    transforms: Any = None
    objective: Objective | None = None
    class_names: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)

    def materialised(self) -> FederatedData:
        """The same data with the per-client feature shift written into the examples, so that indices suffice."""
        return self if self.transforms is None else self.transforms.materialise(self)


class DataSet(Settings):
    """Base of data kinds. Every data kind has ``clients`` and, where it can be split, ``partition``.

    ``is_function`` says that what is loaded are functions of a point (``FederatedData.objective``), not examples.
    """

    is_function: ClassVar[bool] = False

    @abstractmethod
    def load(self, seed: int) -> FederatedData:
        """Read and split the data. Deterministic in (settings, seed).

        Raises:
            FileNotFoundError: the data is not there; the message says where it was looked for and how to get it.
            ValueError: the split is impossible (more shards than examples ...).
        """

    def problems(self) -> list[tuple[str, str]]:
        """What a cheap look at the files shows to be wrong, as (field, message); asked before a long run."""
        path = getattr(self, "path", None)
        if not isinstance(path, str) or Path(path).exists():
            return []
        return [("path", f"{self.kind()}: not found in {path}")]


class Partition(Settings):
    """Base of partitioners."""

    @abstractmethod
    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Assign examples to clients.

        Args:
            targets: class labels ``[n]`` (or binned values for regression).
            groups: natural owner of every example ``[n]``, or None.
            clients: number of clients, >= 1.
            seed: run seed; draw only from ``rng.generator(seed, "partition", ...)``.
        """
