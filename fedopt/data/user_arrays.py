"""Arrays in memory, for the Python API."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from fedopt.data._assemble import SplitDataSet, assemble, hold_out
from fedopt.data.base import Examples, FederatedData
from fedopt.types import Task


class Arrays(BaseModel):
    """Holds arrays outside of the settings' values: a dump shows their number and hash, never the arrays.

    Args:
        num_examples: training examples.
        sha256: over all arrays' bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_examples: int = Field(description="training examples held in memory")
    sha256: str = Field(description="hash over all arrays")
    _train: Examples | None = PrivateAttr(None)
    _test: Examples | None = PrivateAttr(None)

    @property
    def train(self) -> Examples:
        """Training examples.

        Raises:
            ValueError: these settings were read from a file, which cannot hold the arrays.
        """
        if self._train is None:
            raise ValueError(
                "user_arrays were given in memory and are not stored in a scenario: pass UserArrays.of(...) from "
                "Python again, or save the arrays with numpy.savez and use kind: npz"
            )
        return self._train

    @property
    def test(self) -> Examples | None:
        """Test examples, or None."""
        return self._test


class UserArrays(SplitDataSet):
    """Your own arrays in memory (Python only): build with ``UserArrays.of(x_train, y_train, x_test, y_test, ...)``.

    The resolved scenario shows the number of examples and a hash; it cannot be rerun without the arrays.
    """

    arrays: Arrays = Field(description="the arrays; given from Python with UserArrays.of")
    task: Literal["classification", "regression", "next_token"] = Field(
        "classification", description="kind of the targets"
    )
    num_outputs: int | None = Field(None, gt=0, description="classes or vocabulary size; null = largest label plus one")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out if no test arrays are given")

    @model_validator(mode="after")
    def _targets_fit(self) -> UserArrays:
        if self.task != "regression" and self.num_outputs is not None and self.arrays._train is not None:
            largest = int(self.arrays._train.targets.max(initial=0))
            if largest >= self.num_outputs:
                raise ValueError(f"num_outputs is {self.num_outputs}, but the largest label is {largest}")
        return self

    @classmethod
    def of(
        cls,
        x_train: np.ndarray,
        y_train: np.ndarray,
        x_test: np.ndarray | None = None,
        y_test: np.ndarray | None = None,
        groups_train: np.ndarray | None = None,
        groups_test: np.ndarray | None = None,
        task: Literal["classification", "regression", "next_token"] = "classification",
        **settings: Any,
    ) -> UserArrays:
        """Settings around arrays.

        Args:
            x_train, x_test: ``[n, *input_shape]``; integer tokens ``[n, sequence]`` for next_token.
            y_train, y_test: ``[n]`` classes, ``[n]`` or ``[n, outputs]`` values, or ``[n, sequence]`` tokens.
            groups_train, groups_test: natural owner of every example ``[n]``.
            task: kind of the targets.
            settings: the other fields (``clients``, ``partition`` ...).
        Raises:
            ValueError: arrays that do not fit each other or the task.
        """
        train = _examples(x_train, y_train, groups_train, task)
        test = None if x_test is None or y_test is None else _examples(x_test, y_test, groups_test, task)
        held = Arrays(num_examples=len(train), sha256=_digest(train, test))
        held._train, held._test = train, test
        return cls(arrays=held, task=task, **settings)

    def load(self, seed: int) -> FederatedData:
        """Split."""
        train, test = self.arrays.train, self.arrays.test
        if test is None:
            train, test = hold_out(train, self.test_fraction, seed)
        labels = int(max(train.targets.max(initial=0), test.targets.max(initial=0))) + 1
        outputs = train.targets.shape[1] if self.task == "regression" else self.num_outputs or labels
        names = tuple(map(str, range(outputs))) if self.task == "classification" else ()
        task = Task(self.task, train.inputs.shape[1:], outputs)
        source = {"name": "arrays in memory", "sha256": self.arrays.sha256}
        return assemble(self, seed, task, train, test, names, source)


def _examples(inputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None, task: str) -> Examples:
    x, y = np.asarray(inputs), np.asarray(targets)
    if len(x) != len(y) or (groups is not None and len(groups) != len(x)):
        raise ValueError(f"inputs, targets and groups must have the same length, got {len(x)} and {len(y)}")
    if task != "regression" and not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"targets of a {task} task are integers, got {y.dtype}: convert them, or use task='regression'"
        )
    if task == "next_token":
        return Examples(x.astype(np.int64), y.astype(np.int64), _maybe(groups))
    y = y.reshape(len(y), -1).astype(np.float32) if task == "regression" else y.astype(np.int64)
    return Examples(x.astype(np.float32), y, _maybe(groups))


def _maybe(groups: np.ndarray | None) -> np.ndarray | None:
    return None if groups is None else np.asarray(groups)


def _digest(train: Examples, test: Examples | None) -> str:
    total = hashlib.sha256()
    for part in (train, test):
        for array in () if part is None else (part.inputs, part.targets):
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
