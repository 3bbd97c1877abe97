"""Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, limited
from fedopt.data._fetch import data_folders, digest, download, fetch_debian, find
from fedopt.data._files import IDX_NAMES, as_images, has_idx_files, idx_file, read_idx
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task

_PACKAGE = "dataset-fashion-mnist"
_FOLDER = "usr/share/datasets/fashion-mnist"
_UPSTREAM = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_HOW = (
    f"Install the Debian package {_PACKAGE}, or put the four IDX files into a folder and name it in `path` or in "
    "FEDOPT_DATA, or set download: true"
)


class FashionMnist(SplitDataSet):
    """60,000 + 10,000 images of clothes, 28 x 28 pixels, 10 classes (MIT licence).

    Looked for in ``path``, else ``FEDOPT_DATA``, ``~/.cache/fedopt`` and the folder of the Debian package; with
    ``download`` fetched (Debian package, else the authors' repository) into the first of the two data folders. Inputs
    ``[1, 28, 28]`` in 0..1; the official test set is the pooled test set.

    References: Xiao, Rasul and Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747.
    """

    path: str | None = Field(None, description="folder of the four IDX files (gzipped or not)")
    download: bool = Field(False, description="fetch the files if they are not found")
    limit: int | None = Field(None, gt=0, description="use a random subset of this many training examples")
    test_limit: int | None = Field(None, gt=0, description="use a random subset of this many test examples")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: not found, or not reachable; says where it was looked for and how to get it.
        """
        folder = self._folder()
        files = [idx_file(folder, role) or folder for role in IDX_NAMES]
        images, labels, test_images, test_labels = (read_idx(file) for file in files)
        train = limited(Examples(images, labels.astype(np.int64)), self.limit, seed, "train")
        test = limited(Examples(test_images, test_labels.astype(np.int64)), self.test_limit, seed, "test")
        source = {"name": "Fashion-MNIST", "licence": "MIT", "found": str(folder), "sha256": digest(files)}
        train, test = (Examples(as_images(part.inputs), part.targets) for part in (train, test))
        return assemble(self, seed, Task("classification", (1, 28, 28), 10), train, test, _NAMES, source)

    def _folder(self) -> Path:
        try:
            return find("fashion_mnist", has_idx_files, self.path, [f"/{_FOLDER}"], _HOW)
        except FileNotFoundError:
            if not self.download or self.path:
                raise
        target = data_folders()[0] / "fashion_mnist"
        fetch(target)
        return find("fashion_mnist", has_idx_files, str(target), [], _HOW)


def fetch(target: Path) -> None:
    """Fetch the four files into a folder: from the Debian package, else from the authors' repository."""
    try:
        unpacked = fetch_debian(_PACKAGE, target / "debian") / _FOLDER
        for file in sorted(unpacked.iterdir()):
            file.replace(target / file.name)
    except RuntimeError:  # no apt here: the repository has the same files
        for name, _ in IDX_NAMES.values():
            download(f"{_UPSTREAM}{name}.gz", target / f"{name}.gz")
