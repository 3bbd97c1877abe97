"""NumPy archives."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, hold_out
from fedopt.data._fetch import digest, find
from fedopt.data._files import as_images
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task


class Npz(SplitDataSet):
    """Your own arrays in an .npz file: x_train, y_train, and optionally x_test, y_test, groups_train, groups_test.

    Bytes (uint8) are images scaled to 0..1, other inputs become float32; ``[n, height, width]`` bytes get a channel
    axis. Targets: integer classes ``[n]``, or real values ``[n]`` or ``[n, outputs]`` for regression. Without a test
    part, ``test_fraction`` is held out. Arrays of Python objects are refused (they would be unpickled).
    """

    path: str = Field(description=".npz file")
    task: Literal["classification", "regression"] = Field("classification", description="kind of the targets")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out if the file has no test part")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: no such file.
            ValueError: an array is missing, holds objects, or does not fit the task.
        """
        file = find("npz", Path.is_file, self.path, [], "Name an .npz file in `path`")
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except zipfile.BadZipFile as error:
            raise ValueError(f"{file} is not an .npz file: {error}") from error
        except (ValueError, AttributeError, EOFError) as error:  # of numpy: not an archive at all, or arrays of objects
            kind = "holds arrays of Python objects" if zipfile.is_zipfile(file) else "is not an .npz file"
            raise ValueError(f"{file} {kind}; save plain arrays with numpy.savez") from error
        train = self._part(arrays, "train", file)
        if "x_test" in arrays:
            test = self._part(arrays, "test", file)
        else:
            train, test = hold_out(train, self.test_fraction, seed)
        outputs = train.targets.shape[1] if self.task == "regression" else _classes(train, test)
        names = tuple(map(str, range(outputs))) if self.task == "classification" else ()
        source = {"name": file.name, "found": str(file), "sha256": digest([file])}
        return assemble(self, seed, Task(self.task, train.inputs.shape[1:], outputs), train, test, names, source)

    def _part(self, arrays: dict[str, np.ndarray], part: str, file: Path) -> Examples:
        missing = [name for name in (f"x_{part}", f"y_{part}") if name not in arrays]
        if missing:
            raise ValueError(f"{file} has no array {', '.join(missing)}; it has {', '.join(arrays)}")
        inputs, targets = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if len(inputs) != len(targets):
            raise ValueError(f"{file}: x_{part} has {len(inputs)} examples, y_{part} {len(targets)}")
        images = inputs.dtype == np.uint8 and inputs.ndim >= 3
        values = as_images(inputs) if images else inputs.astype(np.float32)
        return Examples(values, as_targets(targets, self.task), arrays.get(f"groups_{part}"))


def as_targets(targets: np.ndarray, task: str) -> np.ndarray:
    """Targets in the form of the task.

    Raises:
        ValueError: classes that are not non-negative integers.
    """
    if task == "regression":
        return targets.reshape(len(targets), -1).astype(np.float32)
    if not np.issubdtype(targets.dtype, np.integer) or targets.ndim != 1 or targets.min(initial=0) < 0:
        raise ValueError(
            f"classes must be non-negative integers [n], got {targets.dtype} of shape {targets.shape}: use task: "
            "regression, or convert them"
        )
    return targets.astype(np.int64)


def _classes(train: Examples, test: Examples) -> int:
    return int(max(train.targets.max(initial=0), test.targets.max(initial=0))) + 1
