"""Label skew with given sizes: a Dirichlet draw per client."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import equal_sizes, require_classes, require_examples
from fedopt.rng import generator


class InnerDirichlet(Partition):
    """Label skew with given sizes: each client draws its class proportions from Dirichlet(alpha).

    ``P_i ~ Dir(alpha, ..., alpha)`` over the classes; client i's labels are drawn from ``P_i`` without replacement from
    the pool. When a class is exhausted, its probability is shared by the others. Clients choose in random order, so the
    last ones get what is left (as in every scheme without replacement). flwr-datasets:
    ``InnerDirichletPartitioner``; difference: clients choose all their examples at once instead of one at a time.

    References: Acar et al. 2021, Federated Learning Based on Dynamic Regularization, arXiv:2111.04263.
    """

    alpha: float = Field(0.5, gt=0, description="concentration; small = few classes per client")
    partition_sizes: tuple[int, ...] | None = Field(
        None, strict=False, description="examples of every client; null = equal shares of everything"
    )

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Let the clients choose in random order.

        Raises:
            ValueError: the sizes do not fit the number of clients or of examples.
        """
        require_classes(targets)
        require_examples(len(targets), clients)
        sizes = self._sizes(len(targets), clients)
        labels, codes = np.unique(targets, return_inverse=True)
        rng = generator(seed, "partition")
        pools = [rng.permutation(np.flatnonzero(codes == label)) for label in range(len(labels))]
        left = np.array([len(pool) for pool in pools])
        proportions = rng.dirichlet(np.full(len(labels), self.alpha), size=clients)
        chosen: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * clients
        for client in rng.permutation(clients):
            counts = _draw(proportions[client], int(sizes[client]), left, rng)
            chosen[client] = np.concatenate([pools[c][left[c] - counts[c] : left[c]] for c in range(len(labels))])
            left = left - counts
        return ClientIndex.from_lists(chosen)

    def _sizes(self, num_examples: int, clients: int) -> np.ndarray:
        if self.partition_sizes is None:
            return equal_sizes(num_examples, clients)
        sizes = np.array(self.partition_sizes)
        if len(sizes) != clients or sizes.min() < 0 or sizes.sum() > num_examples:
            raise ValueError(
                f"partition_sizes has {len(sizes)} entries that sum to {int(sizes.sum())}; it needs {clients} "
                f"non-negative entries (one per client) that sum to at most {num_examples}"
            )
        return sizes


def _draw(proportions: np.ndarray, wanted: int, left: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Class counts of one client: multinomial, capped by what is left, redrawn among the classes still open."""
    counts = np.zeros_like(left)
    while counts.sum() < wanted:
        still_open = counts < left
        weights = np.where(still_open, proportions, 0.0)
        if weights.sum() <= 0:
            weights = still_open.astype(float)
        counts = np.minimum(counts + rng.multinomial(wanted - counts.sum(), weights / weights.sum()), left)
    return counts
