"""Scenario files: YAML whose keys know their line, and values given on the command line."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from fedopt.problems import Problem

_OPTIONS = {"seed": "--seed", "engine.device": "--device"}


class ScenarioError(ValueError):
    """A scenario that cannot run: every problem on its own line, with file and line."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


class Where:
    """Finds the line of a key in a YAML file."""

    def __init__(self, path: Path, nodes: Any):
        self.path, self._nodes = path, nodes

    def message(self, problem: Problem) -> str:
        """``file:line:column: key: message``; the line is that of the deepest key that exists."""
        node, position = self._nodes, None
        for part in problem.path:
            found = _position(node, part)
            if found is None:
                break
            position, node = found, node[part]
        place = f"{self.path}:{position[0] + 1}:{position[1] + 1}" if position else f"{self.path}:1"
        key = ".".join(map(str, problem.path)) or "scenario"
        return f"{place}: {key}: {_sentence(problem.message)}"


def _sentence(message: str) -> str:
    return message if message.endswith((".", "?")) else message + "."


def _position(node: Any, part: str | int) -> tuple[int, int] | None:
    location = getattr(node, "lc", None)
    try:
        return location.item(part) if isinstance(node, list) else location.key(part)  # type: ignore[union-attr]
    except (AttributeError, KeyError, IndexError, TypeError):
        return None


def read_yaml(path: Path) -> tuple[dict[str, Any], Where]:
    """Read a YAML mapping as plain values, with where each key stands.

    Raises:
        ScenarioError: no such file, not YAML, a duplicate key, or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError([f"{path}: cannot be read: {error.strerror or error}."]) from error
    except UnicodeDecodeError as error:
        raise ScenarioError([f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}."]) from error
    try:
        nodes = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ScenarioError([f"{place}: not valid YAML: {error.problem or error.context}."]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise ScenarioError([f"{path}: not valid YAML: {str(error).splitlines()[0]}."]) from error
    if not isinstance(nodes, dict):
        raise ScenarioError([f"{path}:1: a scenario is a mapping of keys to values; see `fedopt init`."])
    return _plain(nodes), Where(path, nodes)


def _plain(node: Any) -> Any:
    """Plain Python values from ruamel's nodes."""
    if isinstance(node, dict):
        return {(k if isinstance(k, str) else str(k)): _plain(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_plain(v) for v in node]
    if isinstance(node, bool) or node is None:
        return node if node is None else bool(node)
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in nested mappings, making those that are missing."""
    *parents, last = dotted.split(".")
    for part in parents:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    values[last] = value


def of_override(problem: Problem, overrides: Mapping[str, Any], in_file: Container[str]) -> str | None:
    """The problem as that of a command-line option, if one set the key it is about; None otherwise.

    Args:
        problem: of the scenario with the overrides in it.
        overrides: dotted keys to values.
        in_file: the top-level keys that the file itself has.
    """
    path = tuple(map(str, problem.path))
    for dotted, value in overrides.items():
        keys = tuple(dotted.split("."))
        brought = path[: len(keys)] == keys or (path and keys[: len(path)] == path and path[0] not in in_file)
        if not brought:
            continue
        shown = flow(value)
        option = f"{_OPTIONS[dotted]} {shown}" if dotted in _OPTIONS else f"--set {dotted}={shown}"
        inner = "".join(f"{key}: " for key in (".".join(path[len(keys) :]),) if key)
        return f"{option}: {inner}{_sentence(problem.message)}"
    return None


def parse_override(text: str) -> tuple[str, Any]:
    """``a.b=value`` with the value read as YAML.

    >>> parse_override("client.lr=1e-2")
    ('client.lr', 0.01)

    Raises:
        ScenarioError: no ``=``, or the value is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ScenarioError([f"--set {text}: write it as key.subkey=value."])
    try:
        parsed = YAML(typ="safe").load(value)
    except YAMLError as error:
        raise ScenarioError([f"--set {text}: the value is not YAML: {str(error).splitlines()[0]}."]) from error
    return name, parsed


def flow(value: Any) -> str:
    """A value in YAML's one-line form.

    >>> flow({"kind": "mlp", "hidden": [64], "dropout": None})
    '{kind: mlp, hidden: [64], dropout: null}'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return str(value)
