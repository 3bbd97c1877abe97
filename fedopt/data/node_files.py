"""Local files of a deployment's nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fedopt.data.base import ClientIndex, DataSet, Examples, FederatedData
from fedopt.data.npz import Npz
from fedopt.types import Task


class NodeFiles(DataSet):
    """Every client's own .npz file, named in its node's configuration (``data-path``); the server sees none of them.

    A file holds ``x_train`` and ``y_train`` as for ``kind: npz``. Labels and counts stay on the node: the server counts
    every client as ``examples_per_client`` examples (equal weights), unless ``public`` names num_examples. The
    server's test set is a file of its own with ``x_test`` and ``y_test``. To simulate the same scenario, put all files
    into one ``folder`` as client-0.npz, client-1.npz, ...

    Raises (when loaded):
        FileNotFoundError: a file is not there.
        ValueError: a file does not hold what ``input_shape`` and ``num_outputs`` say.
    """

    clients: int = Field(3, gt=0, description="number of clients, one partition each")
    task: Literal["classification", "regression"] = Field("classification", description="kind of the targets")
    input_shape: tuple[int, ...] = Field(strict=False, description="shape of one example; images channels first")
    num_outputs: int = Field(gt=0, description="classes, or outputs of the regression")
    examples_per_client: int = Field(1, gt=0, description="public stand-in for every client's number of examples")
    test_path: str | None = Field(None, description=".npz file of the server with x_test and y_test, or null")
    folder: str | None = Field(None, description="folder of client-<i>.npz files, for simulation only")
    public: tuple[Literal["num_examples"], ...] = Field(
        (), strict=False, description="what of the split everybody may know"
    )

    def load(self, seed: int) -> FederatedData:
        """All clients' files from ``folder``, for simulation."""
        if self.folder is None:
            raise FileNotFoundError(
                "node_files lie on the nodes of a deployment: use fedopt deploy, or set data.folder to simulate"
            )
        parts = [self._read(Path(self.folder) / f"client-{i}.npz", "train") for i in range(self.clients)]
        ends = np.cumsum([0, *(len(part) for part in parts)])
        train = Examples(
            np.concatenate([part.inputs for part in parts]), np.concatenate([part.targets for part in parts])
        )
        return self._data(train, ClientIndex(ends.astype(np.int64), np.arange(len(train))))

    def load_node(self, path: str, client: int) -> FederatedData:
        """One client's file; everybody else is empty.

        Args:
            path: ``data-path`` of the node's configuration.
            client: whose it is.
        """
        train = self._read(Path(path), "train")
        offsets = np.where(np.arange(self.clients + 1) > client, len(train), 0).astype(np.int64)
        return self._data(train, ClientIndex(offsets, np.arange(len(train))), with_test=False)

    def load_server(self) -> FederatedData:
        """The server's test set; in place of all examples a single blank one, from which shapes can be worked out."""
        shape = (1, self.num_outputs) if self.task == "regression" else (1,)
        kind = np.float32 if self.task == "regression" else np.int64
        blank = Examples(np.zeros((1, *self.input_shape), dtype=np.float32), np.zeros(shape, dtype=kind))
        offsets = np.arange(self.clients + 1, dtype=np.int64) * self.examples_per_client
        return self._data(blank, ClientIndex(offsets, np.zeros(int(offsets[-1]), dtype=np.int64)))

    def _task(self) -> Task:
        return Task(self.task, self.input_shape, self.num_outputs)

    def _data(self, train: Examples, clients: ClientIndex, with_test: bool = True) -> FederatedData:
        test = self._nothing()
        if with_test and self.test_path is not None:
            test = self._read(Path(self.test_path), "test")
        names = tuple(map(str, range(self.num_outputs))) if self.task == "classification" else ()
        return FederatedData(self._task(), train, test, clients, class_names=names, source={"name": "node_files"})

    def _nothing(self) -> Examples:
        inputs = np.zeros((0, *self.input_shape), dtype=np.float32)
        if self.task == "classification":
            return Examples(inputs, np.zeros(0, dtype=np.int64))
        return Examples(inputs, np.zeros((0, self.num_outputs), dtype=np.float32))

    def _read(self, path: Path, part: str) -> Examples:
        if not path.is_file():
            raise FileNotFoundError(f"node_files: no file {path}")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = Npz(path=str(path), task=self.task)._part(arrays, part, path)
        outputs = found.targets.max(initial=-1) + 1 if self.task == "classification" else found.targets.shape[1]
        fits = outputs <= self.num_outputs if self.task == "classification" else outputs == self.num_outputs
        if found.inputs.shape[1:] != self.input_shape or not fits:
            raise ValueError(
                f"{path}: examples have shape {found.inputs.shape[1:]} and {outputs} outputs, the scenario says "
                f"{self.input_shape} and {self.num_outputs}"
            )
        return found
