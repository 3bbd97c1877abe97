"""How different the clients are: numbers for a split of labels, and for a set of client gradients.

Weights ``p_i`` are the clients' shares of the loss, summing to 1. Larger *dissimilarity* slows convergence; larger
*diversity* speeds up mini-batches: the same numbers read differently.
"""

from __future__ import annotations

import numpy as np

from fedopt.data.base import ClientIndex

Array = np.ndarray


def class_counts(clients: ClientIndex, labels: Array, num_classes: int | None = None) -> Array:
    """Examples of every class at every client.

    Args:
        clients: who holds which examples.
        labels: integer class of every example ``[n]``.
        num_classes: C; None = largest label plus one.
    Returns:
        Counts ``[clients, C]`` int64.
    """
    classes = int(labels.max(initial=-1)) + 1 if num_classes is None else num_classes
    owners = np.repeat(np.arange(clients.num_clients), clients.sizes())
    flat = np.bincount(owners * classes + labels[clients.indices], minlength=clients.num_clients * classes)
    return flat.reshape(clients.num_clients, classes)


def label_distributions(counts: Array) -> tuple[Array, Array]:
    """Label distribution ``P_i`` of every non-empty client ``[m, C]``, and their weights ``n_i / n`` ``[m]``.

    Raises:
        ValueError: nobody holds an example.
    """
    sizes = counts.sum(axis=1)
    held = sizes > 0
    if not held.any():
        raise ValueError("no client holds an example, so there are no label distributions")
    return counts[held] / sizes[held, None], sizes[held] / sizes.sum()


def total_variation(distributions: Array, weights: Array) -> Array:
    """``0.5 * sum_c |P_i(c) - P(c)|`` to the weighted mean ``P`` ``[m]``, in [0, 1]."""
    return 0.5 * np.abs(distributions - weights @ distributions).sum(axis=1)


def earth_mover(distributions: Array, weights: Array) -> Array:
    """The label "EMD" of the non-IID literature: ``sum_c |P_i(c) - P(c)|``, twice the total variation ``[m]``.

    It is an L1 distance without a ground metric, in [0, 2].

    References: Zhao et al. 2018, Federated Learning with Non-IID Data, arXiv:1806.00582.
    """
    return 2.0 * total_variation(distributions, weights)


def hellinger(distributions: Array, weights: Array) -> Array:
    """``sqrt(1 - sum_c sqrt(P_i(c) P(c)))`` to the weighted mean ``[m]``, in [0, 1]."""
    overlap = np.sqrt(distributions * (weights @ distributions)).sum(axis=1)
    return np.sqrt(np.maximum(1.0 - overlap, 0.0))


def kl_to_global(distributions: Array, weights: Array) -> Array:
    """``sum_c P_i log(P_i / P)`` in nats ``[m]``; finite, because P covers every P_i."""
    return _cross(distributions, distributions / np.maximum(weights @ distributions, 1e-300))


def chi_square(distributions: Array, weights: Array) -> Array:
    """``sum_c (P_i - P)^2 / P`` over the classes that occur ``[m]``."""
    overall = weights @ distributions
    return ((distributions - overall) ** 2 / np.where(overall > 0, overall, 1.0)).sum(axis=1)


def jensen_shannon(distributions: Array, weights: Array) -> float:
    """``H(P) - sum_i p_i H(P_i)`` in nats: how much a client's id says about a label, in [0, log min(m, C)]."""
    return float(entropy((weights @ distributions)[None])[0] - weights @ entropy(distributions))


def entropy(distributions: Array) -> Array:
    """``-sum_c P_i log P_i`` in nats ``[m]``."""
    return -_cross(distributions, distributions)


def effective_classes(distributions: Array) -> Array:
    """``exp(H(P_i))`` ``[m]``, in [1, C]."""
    return np.exp(entropy(distributions))


def gini(sizes: Array) -> float:
    """Gini coefficient of the client sizes: 0 = all equal, (N - 1) / N = one client holds everything.

    >>> gini(np.array([5, 5])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    ordered, count = np.sort(np.asarray(sizes, dtype=np.float64)), len(sizes)
    if ordered.sum() == 0:
        return 0.0
    ranks = np.arange(1, count + 1)
    return float((2 * ranks - count - 1) @ ordered / (count * ordered.sum()))


def coefficient_of_variation(sizes: Array) -> float:
    """Standard deviation of the client sizes over their mean (population form)."""
    values = np.asarray(sizes, dtype=np.float64)
    return float(values.std() / values.mean()) if values.sum() > 0 else 0.0


def split_summary(clients: ClientIndex, labels: Array, num_classes: int | None = None) -> dict[str, float]:
    """The numbers to write once per split: weighted means over the clients, and size skew."""
    sizes = clients.sizes()
    distributions, weights = label_distributions(class_counts(clients, labels, num_classes))
    return {
        "total_variation": float(weights @ total_variation(distributions, weights)),
        "earth_mover": float(weights @ earth_mover(distributions, weights)),
        "hellinger": float(weights @ hellinger(distributions, weights)),
        "jensen_shannon": jensen_shannon(distributions, weights),
        "effective_classes": float(weights @ effective_classes(distributions)),
        "size_gini": gini(sizes),
        "size_variation": coefficient_of_variation(sizes),
        "size_min": float(sizes.min()),
        "size_max": float(sizes.max()),
    }


def gradient_dissimilarity(gradients: Array, weights: Array) -> float:
    """``zeta^2 = sum_i p_i |g_i - g|^2`` of client gradients ``[N, d]``; 0 exactly where all are equal."""
    return float(weights @ ((gradients - weights @ gradients) ** 2).sum(axis=1))


def local_dissimilarity(gradients: Array, weights: Array) -> float:
    """``B = sqrt(sum_i p_i |g_i|^2 / |g|^2)``, at least 1; inf at a stationary point that no client shares.

    References: Li et al. 2020, definition 3, arXiv:1812.06127 (FedProx).
    """
    mean_square = float(weights @ (gradients**2).sum(axis=1))
    square = float(((weights @ gradients) ** 2).sum())
    if square == 0.0:
        return 1.0 if mean_square == 0.0 else float("inf")
    return float(np.sqrt(mean_square / square))


def gradient_diversity(gradients: Array) -> float:
    """``sum_i |g_i|^2 / |sum_i g_i|^2``: 1/N for identical gradients, 1 for orthogonal ones, inf where they cancel.

    References: Yin et al. 2018, Gradient Diversity, arXiv:1706.05699.
    """
    square = float((gradients.sum(axis=0) ** 2).sum())
    return float((gradients**2).sum() / square) if square > 0 else float("inf")


def pairwise_cosine(gradients: Array) -> float:
    """Mean cosine over all pairs of clients, in [-1 / (N - 1), 1]; rows of zeros count as cosine 0.

    Raises:
        ValueError: fewer than two clients.
    """
    count = len(gradients)
    if count < 2:
        raise ValueError(f"a pairwise cosine needs at least two clients, got {count}")
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    units = gradients / np.where(norms > 0, norms, 1.0)
    return float(((units.sum(axis=0) ** 2).sum() - (units**2).sum()) / (count * (count - 1)))


def conflict_rate(gradients: Array) -> float:
    """Fraction of pairs of clients with a negative inner product; builds the ``[N, N]`` Gram matrix."""
    upper = np.triu_indices(len(gradients), 1)
    return float(((gradients @ gradients.T)[upper] < 0).mean()) if len(gradients) > 1 else 0.0


def _cross(first: Array, second: Array) -> Array:
    """``sum_c first * log(second)`` with ``0 log 0 = 0`` ``[m]``."""
    return (first * np.log(np.where(first > 0, second, 1.0))).sum(axis=1)
