"""What all partitioners share: checks with a remedy, and building the client index without a Python loop."""

from __future__ import annotations

import numpy as np

from fedopt.data.base import ClientIndex


def require_examples(num_examples: int, clients: int, minimum: int = 1) -> None:
    """Refuse a split that would need more examples than there are.

    Raises:
        ValueError: fewer than ``clients * minimum`` examples; names what to change.
    """
    if clients * max(minimum, 1) > num_examples:
        raise ValueError(
            f"{clients} clients with at least {max(minimum, 1)} example(s) each need {clients * max(minimum, 1)} "
            f"examples, but there are {num_examples}: use at most {num_examples // max(minimum, 1)} clients, or "
            "partition: {kind: dirichlet_with_replacement}, which lets clients share examples"
        )


def require_classes(targets: np.ndarray) -> None:
    """Refuse labels that are not one integer per example."""
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"this partition needs one integer class per example, got shape {targets.shape} of {targets.dtype}: "
            "use partition: iid, or natural_id"
        )


def from_owners(owners: np.ndarray, clients: int) -> ClientIndex:
    """Client index from the owner of every example.

    Args:
        owners: client of every example ``[n]``; -1 leaves the example out.
        clients: number of clients.
    Returns:
        Every client's examples in ascending order.
    """
    order = np.argsort(owners, kind="stable")
    order = order[np.searchsorted(owners[order], 0) :]
    sizes = np.bincount(owners[order], minlength=clients)
    return ClientIndex(_offsets(sizes), order.astype(np.int64))


def deal(order: np.ndarray, sizes: np.ndarray) -> ClientIndex:
    """Give the first ``sizes[0]`` of ``order`` to client 0, the next ``sizes[1]`` to client 1, and so on."""
    return ClientIndex(_offsets(sizes), order[: int(sizes.sum())].astype(np.int64))


def equal_sizes(total: int, clients: int) -> np.ndarray:
    """Sizes that differ by at most one and sum to ``total`` ``[clients]``.

    >>> equal_sizes(7, 3)
    array([3, 2, 2])
    """
    return total // clients + (np.arange(clients) < total % clients).astype(np.int64)


def proportional_sizes(weights: np.ndarray, total: int, minimum: int) -> np.ndarray:
    """Integer sizes proportional to weights, everyone at least ``minimum``, summing to ``total``.

    Everybody first gets ``minimum``; what the exact shares exceed it by is scaled to the rest and rounded by largest
    remainder (ties to the smaller client id).

    Args:
        weights: non-negative ``[clients]``, not all zero.
        total: sum of the sizes, >= clients * minimum.
        minimum: smallest size.

    >>> proportional_sizes(np.array([1.0, 2.0, 3.0]), 12, 0), proportional_sizes(np.array([0.0, 1.0]), 10, 3)
    (array([2, 4, 6]), array([3, 7]))
    """
    excess = np.maximum(weights / weights.sum() * total - minimum, 0.0)
    spare = total - minimum * len(weights)
    shares = excess / excess.sum() * spare if excess.sum() > 0 else np.full(len(weights), spare / len(weights))
    sizes = np.floor(shares + 1e-9).astype(np.int64)
    missing = spare - int(sizes.sum())
    if missing > 0:
        sizes[np.argsort(sizes - shares, kind="stable")[:missing]] += 1
    return sizes + minimum


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
