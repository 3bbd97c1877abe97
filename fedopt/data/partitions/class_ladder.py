"""Label shards in the order of the clients."""

from __future__ import annotations

import numpy as np

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import deal, equal_sizes, require_classes, require_examples
from fedopt.rng import generator


class ClassLadder(Partition):
    """Label-sorted data cut in the order of the clients: client 0 holds the first labels, the last the last.

    With a device model whose speed follows the client id (``F-X`` delays: client 0 is the slowest) the slowest clients
    hold classes nobody else has, which is the sharpest test of aggregation weights. Sizes differ by at most one, every
    example is used once, and the order inside a class is random.

    References: derived test case, delay models (section 6) of the FedFix comparison, arXiv:2206.10189.
    """

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Sort by label and cut into equal consecutive pieces."""
        require_classes(targets)
        require_examples(len(targets), clients)
        shuffled = generator(seed, "partition").permutation(len(targets))
        ordered = shuffled[np.argsort(targets[shuffled], kind="stable")]
        return deal(ordered, equal_sizes(len(targets), clients))
