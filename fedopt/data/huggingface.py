"""Any Hugging Face data set, through flwr-datasets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from fedopt.data._assemble import SplitDataSet, assemble, hold_out
from fedopt.data._files import as_images
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task


class HuggingFace(SplitDataSet):
    """Any Hugging Face data set with numeric or image columns, through flwr-datasets (needs the extra and a network).

    Splits are loaded with ``FederatedDataset`` and then split over clients by fedopt's own partitions (same names and
    parameters). Images ``[height, width]`` or ``[height, width, channels]`` become ``[channels, height, width]`` in
    0..1. Install with ``pip install "fedopt[huggingface]"``.
    """

    dataset: str = Field(description="name on the hub, for example ylecun/mnist")
    subset: str | None = Field(None, description="configuration of the data set")
    input_column: str = Field("image", description="column with the inputs")
    target_column: str = Field("label", description="column with the targets")
    client_column: str | None = Field(None, description="column with the natural owner, for natural_id")
    train_split: str = Field("train", description="split for training")
    test_split: str | None = Field("test", description="split for testing; null = test_fraction")
    task: Literal["classification", "regression"] = Field("classification", description="kind of the target")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out, without a test_split")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: the extra is not installed, or the hub cannot be reached; says what to do.
            ValueError: a column is missing.
        """
        stored = self._open()
        train = self._examples(stored, self.train_split)
        if self.test_split is None:
            train, test = hold_out(train, self.test_fraction, seed)
        else:
            test = self._examples(stored, self.test_split)
        outputs = 1 if self.task == "regression" else int(max(train.targets.max(), test.targets.max())) + 1
        names = tuple(map(str, range(outputs))) if self.task == "classification" else ()
        source = {"name": self.dataset, "licence": "see its card", "found": "Hugging Face hub"}
        return assemble(self, seed, Task(self.task, train.inputs.shape[1:], outputs), train, test, names, source)

    def _open(self) -> Any:
        try:
            from flwr_datasets import FederatedDataset
            from flwr_datasets.partitioner import IidPartitioner
        except ImportError as error:
            raise FileNotFoundError(
                f'data kind huggingface needs flwr-datasets ({error}): pip install "fedopt[huggingface]"'
            ) from error
        partitioners = {self.train_split: IidPartitioner(num_partitions=1)}
        return FederatedDataset(dataset=self.dataset, subset=self.subset, partitioners=partitioners)

    def _examples(self, stored: Any, split: str) -> Examples:
        try:
            rows = stored.load_split(split)
        except (OSError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{self.dataset} cannot be loaded from the hub ({error}): without the internet, save it as .npz or "
                ".parquet elsewhere and use kind: npz or table"
            ) from error
        wanted = [c for c in (self.input_column, self.target_column, self.client_column) if c is not None]
        missing = [column for column in wanted if column not in rows.column_names]
        if missing:
            raise ValueError(
                f"{self.dataset} has no column {', '.join(missing)}; it has {', '.join(rows.column_names)}"
            )
        inputs = np.stack([np.asarray(value) for value in rows[self.input_column]])
        targets = np.asarray(rows[self.target_column])
        targets = targets.astype(np.int64) if self.task == "classification" else targets.astype(np.float32)[:, None]
        groups = None if self.client_column is None else np.asarray(rows[self.client_column])
        return Examples(_channels_first(inputs), targets, groups)


def _channels_first(inputs: np.ndarray) -> np.ndarray:
    if inputs.dtype != np.uint8:
        return inputs.astype(np.float32)
    return as_images(np.moveaxis(inputs, -1, 1) if inputs.ndim == 4 else inputs)
