"""Components: one file, one frozen settings class, found by its file name.

A component is named in a scenario by ``kind``, which is the name of its file in the folder of its family
(``aggregators/fedbuff.py`` is ``kind: fedbuff``), or by ``package.module:Class`` for a user's own. Nothing is
registered and nothing happens at import: a folder listing is the registry.

Nothing here imports torch, so ``fedopt list``, ``validate`` and ``schema`` start fast.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from fedopt.problems import Problem, problems_in

_EXPANDING: ContextVar[frozenset[str]] = ContextVar("families being written into a JSON schema", default=frozenset())


class ComponentError(ValueError):
    """A component cannot be found or does not fit; the message says what to do instead."""


class Section(BaseModel):
    """A fixed part of the scenario (no ``kind``): typed, strict, frozen, no unknown keys.

    Every field has a ``Field(description=...)`` that names its unit; that text becomes the documentation, the JSON
    schema and the commented scenario of ``fedopt init``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class Settings(Section):
    """Base of all components, chosen by ``kind``: typed, strict, frozen, no unknown keys."""

    code_fields: ClassVar[tuple[str, ...]] = ()  # fields that name a user's own code, as ``package.module:name``

    @classmethod
    def kind(cls) -> str:
        """The name used in a scenario: the file name, or ``package.module:Class`` outside fedopt."""
        if cls.__module__.startswith("fedopt."):
            return cls.__module__.rsplit(".", 1)[1]
        return f"{cls.__module__}:{cls.__name__}"


@dataclass(frozen=True)
class KindOf:
    """Pydantic annotation: a component of one family, written as a mapping with ``kind``.

    Args:
        family: the package whose files are the choices, for example ``"fedopt.aggregators"``.
    """

    family: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(dump)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        outer = _EXPANDING.get()
        if self.family in outer:  # a component that wraps one of its own family
            return {"type": "object", "properties": {"kind": {"enum": names(self.family)}}, "required": ["kind"]}
        token = _EXPANDING.set(outer | {self.family})
        try:
            return {"anyOf": [_json_schema(component) for component in components(self.family).values()]}
        finally:
            _EXPANDING.reset(token)

    def _validate(self, value: Any) -> Any:
        if isinstance(value, Settings):
            return value
        problems: list[Problem] = []
        built = build(self.family, value, (), problems)
        if problems:
            raise ValueError("; ".join(p.message for p in problems))
        return built


def names(family: str) -> list[str]:
    """Names of all components of a family (a package), sorted.

    >>> "fedavg" in names("fedopt.aggregators")
    True
    """
    package = importlib.import_module(family)
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)
    return sorted(name for name in found if name != "base" and not name.startswith("_"))


def component(family: str, kind: str) -> type[Settings]:
    """The settings class of one kind.

    Args:
        family: package of the family.
        kind: file name, or ``package.module:Class``.
    Raises:
        ComponentError: no such kind; the message lists what exists and the nearest name.
    """
    if ":" in kind:
        return _user_class(kind)
    if kind not in names(family):
        known = names(family)
        near = difflib.get_close_matches(kind, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ComponentError(f"unknown kind {kind!r}; {hint}known: {', '.join(known)}, or package.module:Class")
    return _class_of(importlib.import_module(f"{family}.{kind}"), kind)


def components(family: str) -> dict[str, type[Settings]]:
    """All components of a family by name."""
    return {name: component(family, name) for name in names(family)}


def summary(component_class: type) -> str:
    """First line of a component's docstring, for ``fedopt list``."""
    return (component_class.__doc__ or "").strip().splitlines()[0] if component_class.__doc__ else ""


def _class_of(module: ModuleType, kind: str) -> type[Settings]:
    wanted = kind.replace("_", "")
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, Settings) and name.lower() == wanted:
            return value
    raise ComponentError(f"{module.__name__} has no settings class named like its file")


def import_failure(error: Exception) -> str:
    """What an import said, and where modules are looked for if there is no such module."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{error}; start fedopt in the folder of {error.name}, put that folder on PYTHONPATH, or the module beside "
            "the scenario file"
        )
    return str(error)


def _user_class(kind: str) -> type[Settings]:
    module_name, _, class_name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ComponentError(f"cannot import {module_name!r} for kind {kind!r}: {import_failure(error)}") from error
    except AttributeError as error:
        raise ComponentError(f"module {module_name!r} has no class {class_name!r}") from error
    if not (isinstance(found, type) and issubclass(found, Settings)):
        raise ComponentError(f"{kind} is not a settings class; derive it from the family's base class")
    return found


def _json_schema(component_class: type[Settings]) -> dict[str, Any]:
    schema = _without_references(component_class.model_json_schema())
    schema["properties"] = {"kind": {"const": component_class.kind()}, **schema.get("properties", {})}
    schema["required"] = ["kind", *schema.get("required", [])]
    schema["description"] = summary(component_class)
    return schema


def _without_references(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every ``$ref`` replaced by what it names: definitions of a part are lost in the whole."""
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(
                    {**definitions[node["$ref"].rsplit("/", 1)[1]], **{k: v for k, v in node.items() if k != "$ref"}}
                )
            return {key: inline(value) for key, value in node.items()}
        return [inline(item) for item in node] if isinstance(node, list) else node

    return dict(inline(schema))


def kind_of_field(settings: type[BaseModel], field: str) -> KindOf | None:
    """The family a field chooses from, or None when it is not a component."""
    info = settings.model_fields[field]
    return next((m for m in info.metadata if isinstance(m, KindOf)), None)


def nested_settings(settings: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The settings class of a field that is a section or a component, or None."""
    annotation = settings.model_fields[field].annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def build(family: str, value: Any, path: tuple[str | int, ...], problems: list[Problem]) -> Settings | None:
    """Build a component from a mapping with ``kind``; problems are appended, never raised.

    Args:
        family: package of the family.
        value: what the scenario holds at ``path``.
        path: where it stands in the scenario.
        problems: collects every problem found.
    Returns:
        The component, or None if there was a problem.
    """
    if isinstance(value, Settings):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict):
        problems.append(Problem(path=path, message=f"must be a mapping with a kind, got {value!r}"))
        return None
    if not isinstance(value.get("kind"), str):
        known = ", ".join(names(family))
        problems.append(Problem(path=path, message=f"needs a kind; known: {known}, or package.module:Class"))
        return None
    try:
        component_class = component(family, value["kind"])
    except ComponentError as error:
        problems.append(Problem(path=(*path, "kind"), message=str(error)))
        return None
    return parse(component_class, {k: v for k, v in value.items() if k != "kind"}, path, problems)  # type: ignore[return-value]


def parse(
    settings: type[BaseModel], value: dict[str, Any], path: tuple[str | int, ...], problems: list[Problem]
) -> BaseModel | None:
    """Validate a mapping against a settings class, descending into components, collecting all problems."""
    values, before = dict(value), len(problems)
    for name in settings.model_fields:
        if name not in values:
            continue
        family, inner = kind_of_field(settings, name), nested_settings(settings, name)
        if values[name] is None:
            if family is None and inner is not None and not settings.model_fields[name].is_required():
                values.pop(name)  # an empty section in YAML: all its defaults
            continue
        if family is not None:
            built: Any = build(family.family, values[name], (*path, name), problems)
        elif inner is not None and isinstance(values[name], dict):
            built = parse(inner, values[name], (*path, name), problems)
        else:
            continue
        if built is None:
            values.pop(name)
        else:
            values[name] = built
    broken_fields = {p.path[len(path)] for p in problems[before:] if len(p.path) > len(path)}
    try:
        result = settings.model_validate(values)
    except ValidationError as error:
        problems.extend(problems_in(settings, error, path, broken_fields))
        return None
    return result if len(problems) == before else None


def dump(settings: Any) -> Any:
    """The mapping a component came from, with ``kind`` and every default spelled out."""
    if not isinstance(settings, BaseModel):
        return list(settings) if isinstance(settings, tuple) else settings
    body = {name: dump(getattr(settings, name)) for name in type(settings).model_fields}
    return {"kind": type(settings).kind(), **body} if isinstance(settings, Settings) else body
