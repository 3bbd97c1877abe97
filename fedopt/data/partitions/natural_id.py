"""The natural owner of every example."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import equal_sizes, from_owners, proportional_sizes, require_examples
from fedopt.rng import generator


class NaturalId(Partition):
    """Clients are the natural owners of the examples (writer, author, region, hospital ...).

    With as many clients as owners, client i is the i-th owner in sorted order. With fewer clients, whole owners are
    merged (dealt in random order) or the surplus is dropped. With more clients, the owners' examples are divided:
    every owner gets clients in proportion to its examples, neighbours in client id, each an equal random share.
    flwr-datasets: ``NaturalIdPartitioner`` (equal numbers only).
    """

    surplus_owners: Literal["merge", "drop"] = Field(
        "merge", description="more owners than clients: merge several into one client, or drop the last owners"
    )
    surplus_clients: Literal["refuse", "divide"] = Field(
        "refuse", description="more clients than owners: refuse, or divide owners into several clients"
    )

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Map owners to clients.

        Raises:
            ValueError: the data have no natural owner, or there are more clients than owners.
        """
        if groups is None:
            raise ValueError("these data have no natural owner per example: use another partition, for example iid")
        names, codes = np.unique(groups, return_inverse=True)
        rng = generator(seed, "partition")
        if clients <= len(names):
            return from_owners(self._client_of_owner(len(names), clients, rng)[codes], clients)
        if self.surplus_clients == "refuse":
            raise ValueError(
                f"{clients} clients were asked for, but the data have {len(names)} natural owners: use at most "
                f"{len(names)} clients, or surplus_clients: divide"
            )
        require_examples(len(targets), clients)
        return _divided(codes, len(names), clients, rng)

    def _client_of_owner(self, owners: int, clients: int, rng: np.random.Generator) -> np.ndarray:
        if owners == clients or self.surplus_owners == "drop":
            return np.where(np.arange(owners) < clients, np.arange(owners), -1)
        client_of = np.empty(owners, dtype=np.int64)
        client_of[rng.permutation(owners)] = np.arange(owners) % clients
        return client_of


def _divided(codes: np.ndarray, owners: int, clients: int, rng: np.random.Generator) -> ClientIndex:
    sizes = np.bincount(codes, minlength=owners)
    counts = proportional_sizes(sizes.astype(np.float64), clients, 1)  # never more clients than examples of an owner
    result, first = np.empty(len(codes), dtype=np.int64), 0
    for owner in range(owners):
        members = rng.permutation(np.flatnonzero(codes == owner))
        result[members] = first + np.repeat(np.arange(counts[owner]), equal_sizes(len(members), counts[owner]))
        first += counts[owner]
    return from_owners(result, clients)
