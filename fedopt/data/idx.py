"""Local IDX files (MNIST, KMNIST, EMNIST and kin)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, limited
from fedopt.data._fetch import digest, find
from fedopt.data._files import IDX_NAMES, as_images, idx_file, read_idx
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task

_HOW = "`path` must hold two IDX files for training and two for testing; name them in train_images, ... otherwise"


class Idx(SplitDataSet):
    """Images from local IDX files: MNIST, KMNIST, EMNIST, your own.

    Found by their usual names (``train-images-idx3-ubyte`` ..., gzipped or not) or by the names given. Bytes are scaled
    to 0..1; inputs ``[channels, height, width]``. The number of classes is the largest label plus one.
    """

    path: str = Field(description="folder of the files")
    train_images: str | None = Field(None, description="file name in `path`; null = the usual name")
    train_labels: str | None = Field(None, description="file name in `path`; null = the usual name")
    test_images: str | None = Field(None, description="file name in `path`; null = the usual name")
    test_labels: str | None = Field(None, description="file name in `path`; null = the usual name")
    limit: int | None = Field(None, gt=0, description="use a random subset of this many training examples")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is no IDX file, or images and labels differ in number.
        """
        folder = find("idx", Path.is_dir, self.path, [], _HOW)
        files = [self._file(folder, role) for role in IDX_NAMES]
        images, labels, test_images, test_labels = (read_idx(file) for file in files)
        if len(images) != len(labels) or len(test_images) != len(test_labels):
            counts = f"{len(images)} and {len(labels)}, {len(test_images)} and {len(test_labels)}"
            raise ValueError(f"images and labels in {folder} differ in number: {counts}")
        train = limited(Examples(as_images(images), labels.astype(np.int64)), self.limit, seed, "train")
        test = Examples(as_images(test_images), test_labels.astype(np.int64))
        classes = int(max(train.targets.max(), test.targets.max())) + 1
        task = Task("classification", train.inputs.shape[1:], classes)
        source = {"name": folder.name, "found": str(folder), "sha256": digest(files)}
        return assemble(self, seed, task, train, test, tuple(map(str, range(classes))), source)

    def _file(self, folder: Path, role: str) -> Path:
        given = getattr(self, role)
        found = folder / given if given else idx_file(folder, role)
        if found is None or not found.is_file():
            raise FileNotFoundError(f"{folder}: no {given or ' or '.join(IDX_NAMES[role])}. {_HOW}")
        return found
