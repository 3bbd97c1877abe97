"""Label skew with equal sizes at any scale: examples are drawn with replacement."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, Partition
from fedopt.data.partitions._split import require_classes
from fedopt.rng import generator

_BLOCK = 65536  # clients per random stream: bounds memory, and fixes the bits


class DirichletWithReplacement(Partition):
    """Label skew with equal sizes: class proportions Dirichlet(alpha) per client, drawn with replacement.

    ``P_i ~ Dir(alpha, ..., alpha)`` over the classes, class counts of client i ~ Multinomial(examples_per_client, P_i),
    and inside a class examples are drawn with replacement: clients may share examples, so any number of clients fits
    any data. ``alpha = 0``: client i holds only class ``i mod C``.

    Guarantees: every client has exactly ``examples_per_client`` examples. A million clients take seconds.
    ``E sum_c P_i(c)^2 = (alpha + 1) / (alpha * C + 1)``. Because examples repeat, local test shares must come from the
    test set (``client_test_source: matched``).

    References: Fraboni et al. 2022, A General Theory for Federated Optimization with Asynchronous and Heterogeneous
    Clients Updates, section on experiments, arXiv:2206.10189 (FedFix).
    """

    alpha: float = Field(0.1, ge=0, description="concentration; 0 = one class per client, 10000 = iid")
    examples_per_client: int | None = Field(None, ge=1, description="examples of every client; null = n // clients")

    def split(self, targets: np.ndarray, groups: np.ndarray | None, clients: int, seed: int) -> ClientIndex:
        """Draw all clients, in blocks."""
        require_classes(targets)
        if len(targets) == 0:
            raise ValueError("there are no examples to split: check the data's path and limit")
        size = self.examples_per_client or max(len(targets) // clients, 1)
        by_class = np.argsort(targets, kind="stable")
        counts = np.unique(targets, return_counts=True)[1]
        starts = np.cumsum(counts) - counts
        indices = np.empty(clients * size, dtype=np.int64)
        for block, first in enumerate(range(0, clients, _BLOCK)):
            ids = np.arange(first, min(first + _BLOCK, clients))
            rng = generator(seed, "partition", block)
            labels = self._labels(ids, len(counts), size, rng)
            draws = (rng.random(len(labels)) * counts[labels]).astype(np.int64)
            indices[first * size : first * size + len(labels)] = by_class[starts[labels] + draws]
        return ClientIndex(np.arange(clients + 1, dtype=np.int64) * size, indices)

    def _labels(self, ids: np.ndarray, classes: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """Class position of every example of every client of a block ``[clients * size]``."""
        if self.alpha == 0:
            return np.repeat(ids % classes, size)
        counts = rng.multinomial(size, _dirichlet(self.alpha, (len(ids), classes), rng))
        return np.repeat(np.tile(np.arange(classes), len(ids)), counts.ravel())


def _dirichlet(alpha: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Rows ~ Dir(alpha), from log-gamma draws, so that tiny alpha does not underflow to zero rows."""
    logs = np.log(rng.standard_gamma(alpha + 1.0, shape)) + np.log1p(-rng.random(shape)) / alpha
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
