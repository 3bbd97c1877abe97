"""The JSON format of LEAF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fedopt.components import KindOf
from fedopt.data._assemble import SplitDataSet, assemble, hold_out
from fedopt.data._fetch import digest, find
from fedopt.data.base import Examples, FederatedData, Partition
from fedopt.data.partitions.natural_id import NaturalId
from fedopt.types import Task

_HOW = "`path` must hold LEAF's .json files, in subfolders train and test if the users' data are already split"


class LeafJson(SplitDataSet):
    """Data in the JSON format of LEAF (FEMNIST, Shakespeare, synthetic ...), users as clients.

    Reads every .json file in ``path/train`` and ``path/test``, or all of ``path`` with ``test_fraction`` held out.
    Numeric ``x`` are inputs (``input_shape`` restores images) with classes ``y``; strings ``x`` with the next character
    ``y`` become next-character windows, targets being x shifted by one and y at the end. Users are the natural owners;
    with ``client_test_source: owner`` every client is tested on its users' test examples.

    References: Caldas et al. 2018, LEAF: A Benchmark for Federated Settings, arXiv:1812.01097.
    """

    partition: Annotated[Partition, KindOf("fedopt.data.partitions")] = Field(
        NaturalId(), description="how examples are assigned to clients; natural_id = users"
    )
    client_test_source: Literal["held_out", "matched", "owner"] = Field(
        "held_out", description="local tests: see the other kinds; owner = the users' own test examples"
    )
    path: str = Field(description="folder of LEAF .json files, or of its train and test folders")
    input_shape: tuple[int, ...] | None = Field(
        None, strict=False, description="shape of one example, for example [1, 28, 28]; null = as stored"
    )
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out if there is no test folder")

    def load(self, seed: int) -> FederatedData:
        """Read and split.

        Raises:
            FileNotFoundError: no .json file.
            ValueError: not LEAF's format; says what is missing.
        """
        folder = find("leaf_json", Path.is_dir, self.path, [], _HOW)
        parts = [folder / "train", folder / "test"]
        parts = parts if all(part.is_dir() for part in parts) else [folder]
        files = [sorted(part.glob("*.json")) for part in parts]
        if not all(files):
            raise FileNotFoundError(f"{folder} holds no .json file: {_HOW}")
        raw = [_examples_of(some) for some in files]
        characters = _vocabulary(raw) if isinstance(raw[0][0][0], str) else ""
        found = [self._convert(part, characters) for part in raw]
        train, test = found if len(found) == 2 else hold_out(found[0], self.test_fraction, seed)
        if characters:
            task, names = Task("next_token", train.inputs.shape[1:], len(characters)), tuple(characters)
        else:
            classes = int(max(train.targets.max(), test.targets.max())) + 1
            task, names = Task("classification", train.inputs.shape[1:], classes), tuple(map(str, range(classes)))
        source = {"name": folder.name, "found": str(folder), "sha256": digest([f for some in files for f in some])}
        return assemble(self, seed, task, train, test, names, source)

    def _convert(self, part: tuple[list[Any], list[Any], list[str]], characters: str) -> Examples:
        x, y, users = part
        if characters:
            token = {character: index for index, character in enumerate(characters)}
            if len({len(text) for text in x}) != 1 or any(len(last) != 1 for last in y):
                raise ValueError("text examples must be strings of equal length with one next character each")
            tokens = np.array([[token[c] for c in text + last] for text, last in zip(x, y, strict=True)], np.int64)
            return Examples(tokens[:, :-1], tokens[:, 1:], np.array(users))
        inputs = np.array(x, dtype=np.float32)
        if self.input_shape is not None:
            if inputs[0].size != int(np.prod(self.input_shape)):
                raise ValueError(
                    f"input_shape {list(self.input_shape)} does not fit examples of {inputs[0].size} values"
                )
            inputs = inputs.reshape(len(inputs), *self.input_shape)
        return Examples(inputs, np.array(y, dtype=np.int64).reshape(-1), np.array(users))


def _examples_of(files: list[Path]) -> tuple[list[Any], list[Any], list[str]]:
    """All x, y and the user of each, over some files."""
    x: list[Any] = []
    y: list[Any] = []
    users: list[str] = []
    for file in files:
        try:
            stored = json.loads(file.read_text("utf-8"))["user_data"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a LEAF file: it needs user_data ({error})") from error
        for user, data in stored.items():
            x.extend(data["x"])
            y.extend(data["y"])
            users.extend([user] * len(data["y"]))
    if not x:
        raise ValueError(f"{files[0].parent} holds no examples")
    return x, y, users


def _vocabulary(parts: list[tuple[list[Any], list[Any], list[str]]]) -> str:
    return "".join(sorted({character for x, y, _ in parts for text in (*x, *y) for character in text}))
