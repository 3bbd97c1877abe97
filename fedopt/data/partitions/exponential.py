"""Sizes that grow with the client's number: e to the id."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import deal, proportional_sizes, require_examples
from fedopt.rng import generator


class Exponential(Partition):
    """Quantity skew: client number k = 1, 2, ... gets examples in proportion to e to the power of its number.

    Contents are iid and every example is used once. flwr-datasets: ``ExponentialPartitioner``, which rounds down and
    gives the rest to the last client; here shares are rounded by largest remainder after everybody got the minimum.
    """

    min_partition_size: int = Field(1, ge=0, description="smallest client, examples; given out before the shares")

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Fix the sizes, then deal shuffled examples."""
        if self.min_partition_size > 0:
            require_examples(len(targets), clients, self.min_partition_size)
        ids = np.arange(1, clients + 1, dtype=np.float64)
        sizes = proportional_sizes(np.exp(ids - clients), len(targets), self.min_partition_size)
        return deal(generator(seed, "partition").permutation(len(targets)), sizes)
