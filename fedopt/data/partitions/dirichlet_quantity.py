"""Quantity skew by one Dirichlet draw."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import deal, proportional_sizes, require_examples
from fedopt.rng import generator


class DirichletQuantity(Partition):
    """Quantity skew: client sizes are Dirichlet(alpha) shares of the data, contents are iid.

    ``(n_1, ..., n_N) / n ~ Dir(alpha, ..., alpha)``, rounded by largest remainder. Every example is used once.

    References: Li et al. 2022, Federated Learning on Non-IID Data Silos, quantity skew, arXiv:2102.02079.
    """

    alpha: float = Field(0.5, gt=0, description="concentration; small = a few clients hold nearly everything")
    min_partition_size: int = Field(1, ge=0, description="smallest client, examples; given out before the shares")

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Draw the sizes, then deal shuffled examples."""
        if self.min_partition_size > 0:
            require_examples(len(targets), clients, self.min_partition_size)
        rng = generator(seed, "partition")
        shares = rng.dirichlet(np.full(clients, self.alpha))
        sizes = proportional_sizes(shares, len(targets), self.min_partition_size)
        return deal(rng.permutation(len(targets)), sizes)
