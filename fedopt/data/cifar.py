"""CIFAR-10 and CIFAR-100 in their published formats."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, limited
from fedopt.data._fetch import digest, find
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task

_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {  # training files, test files, classes
    "cifar-10-batches-py": (_BATCHES, ("test_batch",), 10),
    "cifar-10-batches-bin": (tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), 10),
    "cifar-100-python": (("train",), ("test",), 100),
    "cifar-100-binary": (("train.bin",), ("test.bin",), 100),
}
_HOW = (
    "Download and unpack one of the archives of CIFAR-10 or CIFAR-100 (python or binary version) and name its folder "
    f"({', '.join(_LAYOUTS)}) in `path`, or put it into FEDOPT_DATA"
)
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Cifar(SplitDataSet):
    """CIFAR-10 or CIFAR-100 from local binary or pickle batches: 50,000 + 10,000 images, 32 x 32, three colours.

    The layout is recognised by its file names (and the 100-class one by ``train``/``test``). Pickle batches are read
    by an unpickler that knows NumPy arrays and nothing else, so a manipulated file cannot run code. Inputs
    ``[3, 32, 32]`` in 0..1; CIFAR-100 uses the fine labels, and its 20 coarse labels as natural owners if asked.

    References: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    path: str | None = Field(None, description="folder of the batches, or the folder that holds it; null = FEDOPT_DATA")
    coarse_owners: bool = Field(False, description="CIFAR-100: coarse labels are the natural owners (natural_id)")
    limit: int | None = Field(None, gt=0, description="use a random subset of this many training examples")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: not found; says where it was looked for and how to get it.
            ValueError: a damaged file, or a pickle that holds more than arrays.
        """
        place = find("cifar", lambda folder: _layout(folder) is not None, self.path, [], _HOW)
        folder, (train_files, test_files, classes) = _layout(place)  # type: ignore[misc]
        train = self._read([folder / name for name in train_files], classes)
        test = self._read([folder / name for name in test_files], classes)
        train = limited(train, self.limit, seed, "train")
        files = [folder / name for name in (*train_files, *test_files)]
        source = {"name": f"CIFAR-{classes}", "licence": "not stated", "found": str(folder), "sha256": digest(files)}
        task = Task("classification", (3, 32, 32), classes)
        return assemble(self, seed, task, train, test, tuple(map(str, range(classes))), source)

    def _read(self, files: list[Path], classes: int) -> Examples:
        parts = [(read_binary if file.suffix == ".bin" else read_pickle)(file, classes) for file in files]
        images = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
        inputs = np.divide(images, np.float32(255.0), dtype=np.float32)
        coarse = np.concatenate([part[2] for part in parts])
        groups = coarse if self.coarse_owners and classes == 100 else None
        return Examples(inputs, np.concatenate([part[1] for part in parts]), groups)


def read_binary(file: Path, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images ``[n, 3072]`` uint8, labels and coarse labels of a binary batch (one or two label bytes per image)."""
    labels = 1 if classes == 10 else 2
    raw = np.fromfile(file, dtype=np.uint8)
    if len(raw) == 0 or len(raw) % (3072 + labels):
        raise ValueError(f"{file} is cut off or not a CIFAR-{classes} batch: {len(raw)} bytes")
    rows = raw.reshape(-1, 3072 + labels)
    return rows[:, labels:], rows[:, labels - 1].astype(np.int64), rows[:, 0].astype(np.int64)


def read_pickle(file: Path, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images ``[n, 3072]`` uint8, labels and coarse labels of a pickle batch.

    Raises:
        ValueError: the pickle refers to anything but arrays, or has other keys.
    """
    try:
        stored = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a CIFAR pickle batch: {error}") from error
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in dict(stored).items()}
    name = "labels" if classes == 10 else "fine_labels"
    if name not in batch or "data" not in batch:
        raise ValueError(f"{file} is not a CIFAR-{classes} batch: it holds {', '.join(map(str, batch))}")
    labels = np.asarray(batch[name], dtype=np.int64)
    coarse = np.asarray(batch.get("coarse_labels", batch[name]), dtype=np.int64)
    return np.asarray(batch["data"], dtype=np.uint8).reshape(len(labels), 3072), labels, coarse


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that can rebuild NumPy arrays, lists, dictionaries, strings and numbers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed")
        if name == "_reconstruct":
            module = "numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else module
        return pickle.Unpickler.find_class(self, module, name)


def _layout(folder: Path) -> tuple[Path, tuple[tuple[str, ...], tuple[str, ...], int]] | None:
    """The folder that holds a complete layout (this one, or a subfolder of the archive's name), and the layout."""
    for name, layout in _LAYOUTS.items():
        for place in (folder, folder / name):
            if all((place / file).is_file() for file in (*layout[0], *layout[1])):
                return place, layout
    return None
