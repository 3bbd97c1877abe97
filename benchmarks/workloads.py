"""The five workloads, as data that every contender can read: NumPy only, because peers live in other environments.

W1 to W5: 1,000 clients, Dirichlet(0.5) over classes, 50 clients a round, one epoch, batches of 10, rate 0.05; Fashion-
MNIST if its four IDX files are found, else random data of the same shape (said in the results).
"""

from __future__ import annotations

import gzip
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

BATCH_SIZE, LR, COHORT, CLIENTS, CLASSES = 10, 0.05, 50, 1000, 10
CLIPPING_NORM, NOISE_MULTIPLIER = 1.0, 1.0
MODELS = {"W1": "cnn", "W2": "mlp", "W3": "logistic", "W4": "mlp", "W5": "mlp"}
PRIVACY = {"W4": "client", "W5": "example"}
TITLES = {
    "W1": "CNN, 1.66 M parameters",
    "W2": "MLP 784-200-10",
    "W3": "logistic regression",
    "W4": "W2 with client-level clipping and noise",
    "W5": "W2 with DP-SGD in the client",
}


@dataclass(frozen=True)
class Bundle:
    """Everything a contender needs.

    Args:
        inputs, targets: training images ``[n, 1, 28, 28]`` float32 in [0, 1] and classes ``[n]``.
        test_inputs, test_targets: the same for testing.
        offsets, indices: client i holds examples ``indices[offsets[i]:offsets[i + 1]]``.
        cohorts: client ids of every round ``[rounds, 50]``.
        source: where the images are from.
    """

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    offsets: np.ndarray
    indices: np.ndarray
    cohorts: np.ndarray
    source: str

    def of(self, client: int) -> np.ndarray:
        """Example indices of a client."""
        return self.indices[self.offsets[client] : self.offsets[client + 1]]


def make_bundle(
    rounds: int, clients: int = CLIENTS, cohort: int = COHORT, seed: int = 0, examples: int | None = None
) -> Bundle:
    """Read or draw the images (only the first ``examples`` for a trial), split them, and draw the cohorts."""
    rng = np.random.default_rng(seed)
    inputs, targets, test_inputs, test_targets, source = _images(rng)
    inputs, targets = inputs[:examples], targets[:examples]
    lists: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in range(CLASSES):
        members = rng.permutation(np.flatnonzero(targets == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(clients, 0.5)))[:-1] * len(members)).astype(int)
        for mine, part in zip(lists, np.split(members, cuts), strict=True):
            mine.append(part)
    owned = [np.concatenate(mine) for mine in lists]
    offsets = np.concatenate([[0], np.cumsum([len(mine) for mine in owned])])
    busy = np.flatnonzero(np.diff(offsets) > 0)
    cohorts = np.stack([rng.choice(busy, cohort, replace=False) for _ in range(rounds)])
    return Bundle(inputs, targets, test_inputs, test_targets, offsets, np.concatenate(owned), cohorts, source)


def save(bundle: Bundle, path: Path) -> None:
    """Write as npz."""
    np.savez(path, **{name: getattr(bundle, name) for name in Bundle.__dataclass_fields__})


def load(path: Path) -> Bundle:
    """Read what ``save`` wrote."""
    with np.load(path) as found:
        values = {name: found[name] for name in Bundle.__dataclass_fields__}
    return Bundle(**{**values, "source": str(values["source"])})


@cache
def load_once(path: str) -> Bundle:
    """The bundle of this process.

    Flower sends its clients' functions to worker processes by value, with what they refer to in the main program; a
    cache there would be new for every client. This module is imported by the workers, and its cache stays.
    """
    return load(Path(path))


def _images(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    folder = Path(os.environ.get("FASHION_MNIST", Path(sys.base_prefix).anchor + "usr/share/datasets/fashion-mnist"))
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        centres = rng.random((CLASSES, 1, 28, 28), dtype=np.float32)
        made = []
        for count in (60_000, 10_000):
            labels = rng.integers(0, CLASSES, count)
            made += [0.5 * centres[labels] + 0.5 * rng.random((count, 1, 28, 28), dtype=np.float32), labels]
        return *made, "synthetic, shape of Fashion-MNIST"  # type: ignore[return-value]
    parts = []
    for part in ("train", "t10k"):
        pixels = _idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        parts += [(pixels / 255.0).astype(np.float32), _idx(folder / f"{part}-labels-idx1-ubyte.gz", 8)]
    return parts[0], parts[1].astype(np.int64), parts[2], parts[3].astype(np.int64), "Fashion-MNIST"


def _idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)
