"""What a node remembers between messages, each of which is a new process: a view of Flower's ``context.state``."""

from __future__ import annotations

import json
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedopt.flower.wire import _array, _tensor


class Memory:
    """Named JSON values and named groups of tensors that survive the process.

    Args:
        records: ``context.state``; it never leaves the node.
    """

    def __init__(self, records: RecordDict):
        self._records = records

    def get(self, name: str, default: Any = None) -> Any:
        """A JSON value."""
        record = self._records.config_records.get(f"fedopt.{name}")
        return default if record is None else json.loads(str(record["json"]))

    def put(self, name: str, value: Any) -> None:
        """Remember a JSON value."""
        self._records[f"fedopt.{name}"] = ConfigRecord({"json": json.dumps(value, sort_keys=True)})

    def tensors(self, name: str) -> dict[str, torch.Tensor] | None:
        """A group of tensors, or None."""
        record = self._records.array_records.get(f"fedopt.tensors.{name}")
        return None if record is None else {key: _tensor(array) for key, array in record.items()}

    def put_tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Remember a group of tensors."""
        self._records[f"fedopt.tensors.{name}"] = ArrayRecord({k: _array(v) for k, v in tensors.items()})

    def forget_tensors(self, name: str) -> None:
        """Forget a group of tensors."""
        self._records.pop(f"fedopt.tensors.{name}", None)
