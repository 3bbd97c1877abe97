"""Plain values as YAML text."""

from __future__ import annotations

import io
from typing import Any


def to_yaml(values: Any) -> str:
    """YAML text of plain values (mappings, lists, numbers, strings), in the given order.

    >>> print(to_yaml({"a": 1, "b": [1, 2]}), end="")
    a: 1
    b:
    - 1
    - 2
    """
    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    buffer = io.StringIO()
    writer.dump(_plain(values), buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float):  # exact types: the writer refuses subclasses
        if isinstance(value, plain):
            return plain(value)
    return str(value)
