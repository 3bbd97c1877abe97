"""Messages on the wire: tensors as raw little-endian bytes with their type and shape, facts as JSON; no pickle.

Everything read here comes from another machine, so it is checked (names, type, shape, length, finite, size) before
anybody sees a tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedopt.protocol import NOT_FINITE

PROTOCOL = 1
PARTS, FACTS = "fedopt.parts", "fedopt.facts"
RAW = "fedopt.raw"  # tells our bytes from NumPy's file format, which Flower uses
MOST_FACTS = 1 << 22  # bytes of JSON

_TYPES = {
    "float32": ("<f4", torch.float32),
    "float64": ("<f8", torch.float64),
    "int64": ("<i8", torch.int64),
    "int32": ("<i4", torch.int32),
    "uint8": ("|u1", torch.uint8),
    "int8": ("|i1", torch.int8),
    "bool": ("|b1", torch.bool),
}
_NAMES = {kind: name for name, (_, kind) in _TYPES.items()}


class WireError(ValueError):
    """A message that must not be used; the text says why, and holds none of its values."""


@dataclass(frozen=True)
class Form:
    """What a tensor on the wire must look like.

    Args:
        dtype: one of the names in this module.
        shape: exact extents.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Form:
        """The form of a tensor."""
        return cls(_NAMES[tensor.dtype], tuple(tensor.shape))

    @property
    def num_bytes(self) -> int:
        """Bytes on the wire."""
        return math.prod(self.shape) * np.dtype(_TYPES[self.dtype][0]).itemsize


def encode(parts: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> RecordDict:
    """A Flower record of named tensors and JSON facts."""
    arrays = {name: _array(tensor) for name, tensor in parts.items()}
    text = json.dumps(plain(facts), sort_keys=True)
    return RecordDict({PARTS: ArrayRecord(arrays), FACTS: ConfigRecord({"json": text})})


def num_bytes(parts: Mapping[str, torch.Tensor]) -> int:
    """Bytes of these tensors on the wire."""
    return sum(Form.of(tensor).num_bytes for tensor in parts.values())


def _array(tensor: torch.Tensor) -> Array:
    if tensor.dtype not in _NAMES:
        raise WireError(f"a tensor of type {tensor.dtype} cannot be sent; use one of {', '.join(_TYPES)}")
    name = _NAMES[tensor.dtype]
    values = tensor.detach().cpu().contiguous().numpy().astype(_TYPES[name][0], copy=False)
    return Array(name, tuple(tensor.shape), RAW, values.tobytes())


def facts_of(content: RecordDict) -> dict[str, Any]:
    """The facts of a record.

    Raises:
        WireError: there are none, or they are not a JSON object.
    """
    record = content.config_records.get(FACTS)
    text = record.get("json") if record is not None else None
    if not isinstance(text, str) or len(text) > MOST_FACTS:
        raise WireError("the message has no fedopt facts, or too many; do both sides run the same version of fedopt?")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise WireError("the facts of the message are not JSON") from error
    if not isinstance(found, dict):
        raise WireError("the facts of the message are not a JSON object")
    return found


def forms_of(content: RecordDict) -> dict[str, Form]:
    """Declared forms of the tensors in a record, with their bytes checked against them.

    Raises:
        WireError: an unknown type, a negative extent, or bytes that do not fit.
    """
    record = content.array_records.get(PARTS)
    if record is None:
        raise WireError("the message holds no tensors of fedopt")
    found = {}
    for name, array in record.items():
        if array.stype != RAW or array.dtype not in _TYPES:
            raise WireError(f"part {name!r} is not raw numbers of a known type")
        form = Form(array.dtype, tuple(int(extent) for extent in array.shape))
        if any(extent < 0 for extent in form.shape) or len(array.data) != form.num_bytes:
            raise WireError(
                f"part {name!r} has {len(array.data)} bytes, but {form.dtype}{list(form.shape)} needs another number"
            )
        found[name] = form
    return found


def tensors_of(
    content: RecordDict, expected: Mapping[str, Form] | None = None, most_bytes: int | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of a record, checked.

    Args:
        content: as received.
        expected: exactly these parts in these forms, or None for whatever is there.
        most_bytes: limit on all parts together, or None.
    Raises:
        WireError: parts, types, shapes or sizes are not as expected, or a number is NaN or infinite.
    """
    forms = forms_of(content)
    total = sum(form.num_bytes for form in forms.values())
    if most_bytes is not None and total > most_bytes:
        raise WireError(f"the message holds {total} bytes of numbers, more than the {most_bytes} that are expected")
    if expected is not None and set(forms) != set(expected):
        raise WireError(f"the message has parts {sorted(forms)}, expected {sorted(expected)}")
    for name, form in (expected or {}).items():
        if forms[name] != form:
            have = forms[name]
            raise WireError(f"part {name!r} is {have.dtype}{list(have.shape)}, expected {form.dtype}{list(form.shape)}")
    found = {name: _tensor(array) for name, array in content.array_records[PARTS].items()}
    for name, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WireError(f"part {name!r} holds {NOT_FINITE} values")
    return found


def _tensor(array: Array) -> torch.Tensor:
    values = np.frombuffer(array.data, dtype=_TYPES[array.dtype][0]).reshape(array.shape)
    native = values.astype(values.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(native)


def digest(content: RecordDict) -> bytes:
    """SHA-256 of a record's facts and tensors: equal messages, equal digests."""
    found = hashlib.sha256(json.dumps(facts_of(content), sort_keys=True).encode())
    for name, form in sorted(forms_of(content).items()):
        found.update(f"{name}\x1f{form.dtype}\x1f{form.shape}\x1f".encode())
        found.update(content.array_records[PARTS][name].data)
    return found.digest()


def plain(value: Any) -> Any:
    """JSON-ready numbers, lists and mappings; exact for 64-bit floats and integers of any size.

    Raises:
        WireError: something else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return plain(value.item())
    raise WireError(f"a {type(value).__name__} cannot be sent as a fact; use numbers, text, lists or mappings")
