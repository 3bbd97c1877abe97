"""Rows on their way into the run log: checked against the schema, spelled as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from fedopt import schemas

_KINDS: dict[pa.DataType, Callable[[Any], Any]] = {pa.string(): str, pa.float64(): float, pa.int64(): int}


def checked_row(row: Mapping[str, Any], columns: tuple[schemas.Column, ...], counted: bool = False) -> dict[str, Any]:
    """The row with every column, in order, as plain Python values.

    Args:
        row: column -> value.
        columns: what the table has.
        counted: leave out what ``row`` does not name, because it is counted elsewhere.
    Raises:
        ValueError: unknown column, missing required value, wrong type.
    """
    known = {column.name for column in columns}
    unknown = set(row) - known
    if unknown:
        raise ValueError(f"unknown columns {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    if counted:  # required counts may be left out: they come from the updates
        columns = tuple(column for column in columns if column.name in row)
    return {column.name: _value(row.get(column.name), column) for column in columns}


def _value(value: Any, column: schemas.Column) -> Any:
    if value is None:
        if column.required:
            raise ValueError(f"column {column.name} needs a value in every row")
        return None
    if column.type not in _KINDS:
        return [int(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    kind = _KINDS[column.type]
    matches = isinstance(value, str) == (kind is str)
    if not matches or (kind is int and not float(value).is_integer()):
        raise ValueError(f"column {column.name} takes {column.type}, got {value!r}")
    return kind(value)


def json_line(row: Mapping[str, Any]) -> str:
    """One line of JSON without the empty columns; NaN and infinities become strings, which JSON can hold."""
    filled = {name: value for name, value in row.items() if value is not None}
    for name, value in filled.items():
        if isinstance(value, float) and not math.isfinite(value):
            filled[name] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return json.dumps(filled, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: Any) -> Any:
    """JSON without NaN and infinities, which strict readers refuse: they become null."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
