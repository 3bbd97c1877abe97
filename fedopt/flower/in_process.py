"""Replies that never leave this process: arrays built when somebody asks for them, and serialised only then."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from flwr.common.constant import SType

from fedopt.engine.base import UpdateBatch
from fedopt.engine.updates import add_row
from fedopt.types import ParamSpec


class TrainedModel:
    """One client's model after its work, built from the cohort's updates when it is asked for.

    Args:
        updates: of the whole cohort, on the host.
        row: of this client.
        start: parameters it started from ``[d]``, on the host. Neither they nor the updates are changed afterwards.
        spec: names and shapes of the parameters.
    """

    def __init__(self, updates: UpdateBatch, row: int, start: torch.Tensor, spec: ParamSpec):
        self._updates, self._row, self._start, self.spec = updates, row, start, spec
        self._unclaimed: dict[str, np.ndarray] = {}

    def flat(self) -> torch.Tensor:
        """The model ``[d]``, built anew."""
        made = self._start.clone()
        add_row(self._updates, self._row, made)
        return made

    def take(self, name: str) -> np.ndarray:
        """Values of one parameter, float32; they belong to the caller alone.

        The model is built at once and each of its arrays is given away once; asking again builds it again.
        """
        found = self._unclaimed.pop(name, None)
        if found is None:
            arrays = {each: values.numpy() for each, values in self.spec.unflatten(self.flat()).items()}
            found = arrays.pop(name)
            self._unclaimed = arrays
        return found

    def record(self) -> ArrayRecord:
        """All parameters under their names, none of them built yet."""
        made = ArrayRecord()
        for name, shape in zip(self.spec.names, self.spec.shapes, strict=True):
            made[name] = InProcessArray(self, name, shape)  # Flower's constructor would make bytes of it
        return made


class InProcessArray(Array):
    """Flower's array of one parameter of a ``TrainedModel``; copies of it are plain arrays of Flower's.

    Args:
        model, name: where the values come from.
        shape: of the values.
    """

    _model: TrainedModel
    _name: str
    _bytes: bytes | None

    def __init__(self, model: TrainedModel, name: str, shape: tuple[int, ...]):
        self.__dict__.update(dtype="float32", shape=shape, stype=SType.NUMPY, _model=model, _name=name, _bytes=None)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """As Flower serialises them; made once."""
        if self._bytes is None:
            self._bytes = Array(self._model.take(self._name)).data
        return self._bytes

    @data.setter
    def data(self, value: bytes) -> None:
        self._bytes = value

    def numpy(self) -> np.ndarray:
        """Values that belong to the caller, as with Flower's own array."""
        return self._model.take(self._name) if self._bytes is None else super().numpy()

    def deflate(self) -> bytes:
        """As Flower's own array, whose name stands in the header."""
        return bytes(self._plain().deflate())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self._fields() == (other.dtype, other.shape, other.stype, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, self._fields()

    def _fields(self) -> tuple[str, tuple[int, ...], str, bytes]:
        return self.dtype, self.shape, self.stype, self.data

    def _plain(self) -> Array:
        return Array(*self._fields())
