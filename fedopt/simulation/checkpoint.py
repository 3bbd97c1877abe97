"""Checkpoints without pickle: JSON for structure, safetensors for numbers, one atomic file.

What can be stored: None, bool, int, float, str, Fraction, tuple, list, dict, set, NamedTuple and dataclass instances,
pydantic settings, NumPy arrays and scalars, tensors. Classes are named in the file and looked up only in fedopt's own
modules and among those that are already imported (the scenario's components), so a foreign checkpoint cannot load code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from fedopt.simulation import tensor_file
from fedopt.simulation.tensor_file import Rows

# 4: all uncollected replies of a client; 3: correlated noise knows the sensitivity of every part; 2: contributions are
# counted apart from participations.
FORMAT = 4


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; says why."""


def save(path: Path, tree: Any) -> None:
    """Write a tree atomically: a reader sees the old file or the new one, never half of one."""
    tensors: dict[str, torch.Tensor | Rows] = {}
    structure = _encode(tree, tensors, {})
    header = json.dumps({"format": FORMAT, "tree": structure})
    temporary = path.with_suffix(path.suffix + ".part")
    with open(temporary, "wb") as file:
        tensor_file.write(file, tensors, header)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path, device: Any = "cpu") -> Any:
    """Read a tree; tensors land on ``device``, tables of rows stay in the file until they are asked for.

    Raises:
        CheckpointError: not a checkpoint of ours, of another format, or it names a class that is not loaded.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {}).get("fedopt", "null"))
            stored = [name for name in file.keys() if not name.startswith("rows")]  # noqa: SIM118 - not a dict
            tensors: dict[Any, Any] = {name: file.get_tensor(name) for name in stored}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if not header or header.get("format") != FORMAT:
        raise CheckpointError(f"{path} was written by another version; start the run anew")
    return _decode(header["tree"], tensors, path)


def _encode(value: Any, tensors: dict[str, torch.Tensor | Rows], seen: dict[int, str]) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return {"int": str(int(value))}
    if isinstance(value, (float, np.floating)):
        return {"float": float(value).hex()}
    if isinstance(value, Fraction):
        return {"fraction": str(value)}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return _encode_tensor(value, tensors, seen)
    if isinstance(value, Rows):
        name = f"rows{len(tensors)}"
        tensors[name] = value
        return {"rows": name, "shape": list(value.shape)}
    if isinstance(value, dict):
        pairs = [[_encode(k, tensors, seen), _encode(v, tensors, seen)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, BaseModel):
        return {"model": _name(value), "fields": {n: _encode(v, tensors, seen) for n, v in value}}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"named": _name(value), "items": [_encode(v, tensors, seen) for v in value]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {f.name: _encode(getattr(value, f.name), tensors, seen) for f in dataclasses.fields(value) if f.init}
        return {"data": _name(value), "fields": items}
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = type(value).__name__
        ordered = sorted(value) if isinstance(value, (set, frozenset)) else value
        return {kind: [_encode(v, tensors, seen) for v in ordered]}
    raise CheckpointError(f"a {type(value).__name__} cannot be stored in a checkpoint; use tensors, numbers, tuples")


def _encode_tensor(value: Any, tensors: dict[str, torch.Tensor | Rows], seen: dict[int, str]) -> Any:
    is_array = isinstance(value, np.ndarray)
    if id(value) not in seen:
        name = f"t{len(tensors)}"
        tensor = torch.from_numpy(np.ascontiguousarray(value)) if is_array else value.detach()
        tensors[name] = tensor
        seen[id(value)] = name
    return {"array" if is_array else "tensor": seen[id(value)], "shape": list(value.shape)}


def _name(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _class(name: str) -> Any:
    module, _, qualified = name.partition(":")
    if module.startswith("fedopt."):  # a state may name a class of a module that is imported only when it is used
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise CheckpointError(f"the checkpoint names {name}, which this scenario does not use")
    if not (issubclass(found, (tuple, BaseModel)) or dataclasses.is_dataclass(found)):
        raise CheckpointError(f"the checkpoint names {name}, which is not a state class")
    return found


def _decode(node: Any, tensors: dict[Any, Any], path: Path) -> Any:
    if node is None or isinstance(node, (bool, str)):
        return node
    kind = next(iter(node))
    body = node[kind]
    match kind:
        case "int":
            return int(body)
        case "float":
            return float.fromhex(body)
        case "fraction":
            return Fraction(body)
        case "tensor":
            # One object per stored tensor: what was shared before (a model version) is shared again.
            shared = (body, *node["shape"])
            if shared not in tensors:
                tensors[shared] = tensors[body].reshape(node["shape"])
            return tensors[shared]
        case "array":
            return tensors[body].cpu().numpy().reshape(node["shape"])
        case "rows":
            return tensor_file.rows_in(path, body, tuple(node["shape"]))
        case "dict":
            return {_decode(k, tensors, path): _decode(v, tensors, path) for k, v in body}
        case "list" | "tuple" | "set" | "frozenset":
            return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](
                _decode(v, tensors, path) for v in body
            )
        case "named":
            return _class(body)(*(_decode(v, tensors, path) for v in node["items"]))
        case "model":
            return _class(body)(**{n: _decode(v, tensors, path) for n, v in node["fields"].items()})
        case "data":
            return _class(body)(**{n: _decode(v, tensors, path) for n, v in node["fields"].items()})
    raise CheckpointError(f"unknown entry {kind!r} in the checkpoint")
