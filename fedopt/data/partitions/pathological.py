"""A fixed number of classes per client."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import from_owners, require_classes, require_examples
from fedopt.rng import generator


class Pathological(Partition):
    """Label skew: each client holds exactly a given number of classes.

    Classes are assigned to clients by ``class_assignment_mode``; then every class is cut into equal parts for the
    clients that have it. ``deterministic``: client i has classes i, i+1, ... modulo C. ``first-deterministic``: class
    i modulo C, the others random. ``random``: all random, without repeats inside a client. Examples of a class that
    nobody was given stay unused (possible when there are few clients).

    flwr-datasets: ``PathologicalPartitioner``.

    References: McMahan et al. 2017, arXiv:1602.05629; Li et al. 2022, arXiv:2102.02079 (first-deterministic).
    """

    num_classes_per_partition: int = Field(2, ge=1, description="distinct classes of every client")
    class_assignment_mode: Literal["random", "deterministic", "first-deterministic"] = Field(
        "random", description="how classes are assigned to clients"
    )

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Assign classes, then cut each class.

        Raises:
            ValueError: more classes wanted than there are, or a class has fewer examples than clients that want it.
        """
        require_classes(targets)
        require_examples(len(targets), clients, self.num_classes_per_partition)
        labels = np.unique(targets)
        if self.num_classes_per_partition > len(labels):
            raise ValueError(
                f"num_classes_per_partition is {self.num_classes_per_partition}, but the data have {len(labels)} "
                f"classes: use at most {len(labels)}"
            )
        rng = generator(seed, "partition")
        wanted = self._classes(clients, len(labels), rng)
        owners = np.full(len(targets), -1, dtype=np.int64)
        for position, label in enumerate(labels):
            holders = np.flatnonzero((wanted == position).any(axis=1))
            members = rng.permutation(np.flatnonzero(targets == label))
            if len(holders) > len(members):
                raise ValueError(
                    f"class {label} has {len(members)} examples, but {len(holders)} clients were assigned it: use "
                    "fewer clients, fewer num_classes_per_partition, or class_assignment_mode: deterministic"
                )
            for holder, part in zip(holders, np.array_split(members, max(len(holders), 1)), strict=False):
                owners[part] = holder
        return from_owners(owners, clients)

    def _classes(self, clients: int, classes: int, rng: np.random.Generator) -> np.ndarray:
        """Class positions of every client ``[clients, num_classes_per_partition]``."""
        count, ids = self.num_classes_per_partition, np.arange(clients)[:, None]
        if self.class_assignment_mode == "deterministic":
            return (ids + np.arange(count)) % classes
        priority = rng.random((clients, classes))
        if self.class_assignment_mode == "first-deterministic":
            priority[np.arange(clients), np.arange(clients) % classes] = -1.0
        return np.argsort(priority, axis=1)[:, :count]
