"""The source code of a user's own modules that a scenario names: where it lies, and what it was when a run was made."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fedopt.components import Settings
from fedopt.own_code import is_own_file


def digests(settings: BaseModel) -> dict[str, str]:
    """Hashes of the user's own code behind a scenario: module -> 16 hexadecimal digits, by name.

    Named are components as ``kind: package.module:Class`` and what fields such as ``data.function`` and
    ``model.factory`` hold. A hash is over the module's file and all that it imports, as far as that is neither part of
    Python or fedopt nor installed. It is that of the first time this process asked, as an imported module stays what
    it was; empty if there is no such module.
    """
    return {module: _digest(module) for module in sorted(set(_named(settings)))}


def folders(settings: BaseModel) -> list[str]:
    """Where this process finds the user's own modules of a scenario; a run directory remembers it."""
    found = []
    for module in digests(settings):
        file = _file(module, anywhere=False)
        if file is not None:
            above = module.count(".") + (file.name == "__init__.py")
            found.append(str(file.resolve().parents[above]))
    return list(dict.fromkeys(found))


def look_beside(values: Mapping[str, Any], folder: Path) -> None:
    """Find modules that a scenario or comparison names in its folder too; those of a run where the run found them.

    Nothing changes for one that names none. What is on Python's path already comes first, so that nothing is hidden.

    Args:
        values: the file as it was read, with overrides.
        folder: where it lies.
    """
    if not _names_a_module(values):
        return
    notes = values.get("resolved")
    places = [str(folder)] if not isinstance(notes, Mapping) else notes.get("own_folders") or []
    for place in map(os.path.abspath, places):
        if place not in sys.path:
            sys.path.append(place)


def _names_a_module(node: Any) -> bool:
    if isinstance(node, Mapping):
        return any(map(_names_a_module, node.values()))
    if isinstance(node, (list, tuple)):
        return any(map(_names_a_module, node))
    return isinstance(node, str) and re.fullmatch(r"[\w.]+:\w+", node) is not None


def _named(settings: BaseModel) -> Iterator[str]:
    if isinstance(settings, Settings):
        for name in (type(settings).kind(), *(getattr(settings, field) for field in settings.code_fields)):
            if ":" in name:
                yield name.partition(":")[0]
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(inner, BaseModel):
                yield from _named(inner)


@cache
def _digest(module: str) -> str:
    files = _files(module)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode())
        digest.update(files[name].read_bytes())
    return digest.hexdigest()[:16] if files else ""


def _files(module: str) -> dict[str, Path]:
    """Names and files of a module, its packages, and of everything of the user's own that they import."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file(name, anywhere=name == module)
        if file is not None:
            found[name] = file
            waiting += [name.rpartition(".")[0]] if "." in name else []
            waiting += _imported(name, file)
    return found


def _file(name: str, anywhere: bool) -> Path | None:
    """Where a module lies; None for what is not there, or neither the user's own nor to be taken from ``anywhere``."""
    try:
        top = find_spec(name.partition(".")[0])  # finds without importing, which a longer name would
        places = [] if top is None else [top.origin or "", *(top.submodule_search_locations or ())]
        if not anywhere and not any(is_own_file(Path(place)) for place in places if place):
            return None
        spec = find_spec(name)
    except (ImportError, ValueError):  # ``from module import name`` need not name a module
        return None
    file = Path(spec.origin) if spec is not None and spec.origin else None
    return file if file is not None and file.is_file() else None


def _imported(module: str, file: Path) -> Iterator[str]:
    """Names that may be modules, of all import statements of a file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # compiled, or it cannot be imported either
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            if not node.level or package:
                whole = resolve_name(relative, package)
                yield whole
                yield from (f"{whole}.{alias.name}" for alias in node.names)
