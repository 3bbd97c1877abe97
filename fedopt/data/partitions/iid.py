"""Equal random shares."""

from __future__ import annotations

import numpy as np

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import deal, equal_sizes, require_examples
from fedopt.rng import generator


class Iid(Partition):
    """Equal random shares: every client's data look like the whole.

    Sizes differ by at most one and every example is used once. flwr-datasets: ``IidPartitioner``.
    """

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Shuffle and cut into equal pieces."""
        require_examples(len(targets), clients)
        order = generator(seed, "partition").permutation(len(targets))
        return deal(order, equal_sizes(len(targets), clients))
