"""Label skew by a Dirichlet draw per class."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import from_owners, require_classes, require_examples
from fedopt.rng import generator

_ATTEMPTS = 10


class Dirichlet(Partition):
    """Label skew: each class is dealt over the clients in Dirichlet(alpha) proportions.

    For every class c, ``p_c ~ Dir(alpha, ..., alpha)`` over the clients and client i gets the share ``p_c[i]`` of the
    class: this skews labels *and* sizes. Every example is used once. For equal sizes use ``inner_dirichlet`` or
    ``dirichlet_with_replacement``, whose Dirichlet is per client over the classes.

    flwr-datasets: ``DirichletPartitioner``. Difference: ``min_partition_size`` defaults to 1 (there 10), because large
    populations hold few examples each.

    References: Yurochkin et al. 2019, Bayesian Nonparametric Federated Learning of Neural Networks,
    arXiv:1905.12022; Hsu et al. 2019, arXiv:1909.06335.
    """

    alpha: float = Field(0.5, gt=0, description="concentration; small = skewed (0.1), large = iid (100)")
    min_partition_size: int = Field(
        1, ge=0, description="smallest client, examples; the draw is repeated up to 10 times"
    )
    self_balancing: bool = Field(False, description="clients above the mean size get nothing of the remaining classes")

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Draw until every client has ``min_partition_size`` examples.

        Raises:
            ValueError: too many clients, or the minimum was not reached; says what to change.
        """
        require_classes(targets)
        if self.min_partition_size > 0:
            require_examples(len(targets), clients, self.min_partition_size)
        smallest = 0
        for attempt in range(_ATTEMPTS):
            made = from_owners(self._owners(targets, clients, generator(seed, "partition", attempt)), clients)
            smallest = max(smallest, int(made.sizes().min()))
            if smallest >= self.min_partition_size:
                return made
        raise ValueError(
            f"no draw of Dirichlet(alpha={self.alpha}) over {clients} clients and {len(targets)} examples gave every "
            f"client {self.min_partition_size} example(s) in {_ATTEMPTS} attempts (best: {smallest}): raise alpha, use "
            "fewer clients, lower min_partition_size (0 allows empty clients), or use partition: "
            "{kind: dirichlet_with_replacement}, which gives every client the same number"
        )

    def _owners(self, targets: np.ndarray, clients: int, rng: np.random.Generator) -> np.ndarray:
        owners, sizes = np.empty(len(targets), dtype=np.int64), np.zeros(clients, dtype=np.int64)
        for label in np.unique(targets):
            members = rng.permutation(np.flatnonzero(targets == label))
            shares = rng.dirichlet(np.full(clients, self.alpha))
            if self.self_balancing:
                open_shares = np.where(sizes <= len(targets) / clients, shares, 0.0)
                shares = open_shares if open_shares.sum() > 0 else shares
            ends = np.floor(np.cumsum(shares / shares.sum()) * len(members) + 1e-9).astype(np.int64)
            ends[-1] = len(members)
            counts = np.diff(ends, prepend=0)
            owners[members] = np.repeat(np.arange(clients), counts)
            sizes += counts
        return owners
