"""FZooS' class-skewed split: every class is cut into m parts that go to m clients."""

from __future__ import annotations

import numpy as np

from fedopt.rng import generator


def class_slots(labels: np.ndarray, clients: int, share: float, seed: int) -> list[np.ndarray]:
    """Example indices of every client.

    ``m = floor(10 share)`` times every class is dealt to a client, from shuffled decks of all clients (with as many
    classes as clients: a random permutation each time); each class is then cut into m equal disjoint parts for its m
    clients, which may repeat. A larger share is less heterogeneity.

    Args:
        labels: classes ``[n]``.
        clients: number of clients.
        share: P in (0, 1].
        seed: run seed.
    Raises:
        ValueError: fewer parts than clients.
    """
    rng, classes = generator(seed, "class_slots"), np.unique(labels)
    times = max(1, int(10 * share + 1e-9))
    if times * len(classes) < clients:
        raise ValueError(
            f"share {share} deals {times} times {len(classes)} classes, fewer than {clients} clients: raise share"
        )
    deck: list[int] = []
    owners: dict[int, list[int]] = {int(c): [] for c in classes}
    for _ in range(times):
        for c in classes:
            deck = deck or rng.permutation(clients).tolist()
            owners[int(c)].append(deck.pop())
    held: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for c, its in owners.items():
        for owner, part in zip(its, np.array_split(rng.permutation(np.flatnonzero(labels == c)), times), strict=True):
            held[owner].append(part)
    return [np.sort(np.concatenate(parts)).astype(np.int64) for parts in held]
