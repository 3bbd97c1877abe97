"""Options in words, from the settings' own fields: what can be written, the default, the meaning. No torch.

``fedopt list FAMILY KIND`` prints them; pages of the documentation hold them as tables.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fedopt.components import KindOf, Settings, dump, kind_of_field, names, nested_settings, summary
from fedopt.scenario_file import flow

REQUIRED = "required"
_NAMES: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >="}
_INDENT = " " * 6


class Option(NamedTuple):
    """One option: its dotted name, what can be written there, the default in YAML or ``required``, what it means."""

    name: str
    values: str
    default: str
    meaning: str


def options_of(settings: type[BaseModel]) -> list[Option]:
    """All options of a settings class in order, those of sections inside it under dotted names.

    >>> from fedopt.components import component
    >>> options_of(component("fedopt.aggregators", "gradient_correction"))[2]
    Option(name='server_lr', values='number, > 0', default='1.0', meaning='global step size, > 0; the papers use 1')
    """
    return _options(settings, None, "")


def _options(settings: type[BaseModel], chosen: BaseModel | None, prefix: str) -> list[Option]:
    found = []
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True) if chosen is None else getattr(chosen, name)
        family, inner = kind_of_field(settings, name), nested_settings(settings, name)
        values = _kinds(family) if family else _words(field.annotation, field.metadata)
        shown = "" if isinstance(default, BaseModel) and family is None else _default(default)
        found.append(Option(prefix + name, values, shown, field.description or ""))
        if family is None and inner is not None:
            found += _options(inner, default if isinstance(default, BaseModel) else None, f"{prefix}{name}.")
    return found


def _kinds(family: KindOf) -> str:
    return f"kind: {', '.join(names(family.family))}"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return REQUIRED
    body = dump(value)
    return str(body["kind"]) if isinstance(body, dict) and set(body) == {"kind"} else flow(body)


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """``whole number or null, >= 1``."""
    return ", ".join([_bare(annotation), *filter(None, [" and ".join(_bounds(metadata))])])


def alternatives(annotation: Any) -> str:
    """The types of a union in words; empty if there is one only, null aside.

    >>> alternatives(int | Literal["full"]), alternatives(int | None)
    ('whole number or full', '')
    """
    members = [each for each in get_args(annotation) if each is not type(None)]
    is_union = get_origin(annotation) in (Union, UnionType) and len(members) > 1
    return _bare(annotation) if is_union else ""


def _bare(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], [part for each in arguments[1:] for part in getattr(each, "metadata", [each])])
    if origin is Literal:
        return " or ".join(flow(value) for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_bare(each) for each in arguments)
    if origin is tuple:
        inner = [_words(each) for each in arguments if each is not Ellipsis]
        return f"list of {inner[0]}" if len(set(inner)) == 1 else f"list of {', '.join(inner)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _NAMES.get(annotation, "mapping" if origin is dict else "anything")


def _bounds(metadata: Iterable[Any]) -> list[str]:
    return [
        f"{sign} {getattr(each, name):g}" for each in metadata for name, sign in _BOUNDS.items() if hasattr(each, name)
    ]


def described(settings: type[Settings], width: int = 100) -> str:
    """A component in full: its own description, then every option.

    Args:
        settings: of the component.
        width: most characters of a line of an option.
    """
    lines = [inspect.cleandoc(settings.__doc__ or ""), ""]
    options = options_of(settings)
    lines += [f"Options of kind: {settings.kind()}" if options else f"kind: {settings.kind()} has no options"]
    for option in options:
        default = f"; default {option.default}" if option.default not in ("", REQUIRED) else ""
        remark = "; required" if option.default == REQUIRED else default
        lines += textwrap.wrap(f"{option.name}: {option.values}{remark}", width, **_hang("  "))
        lines += textwrap.wrap(option.meaning, width, **_hang(_INDENT))
    return "\n".join(lines) + "\n"


def _hang(indent: str) -> dict[str, Any]:
    return {"initial_indent": indent, "subsequent_indent": _INDENT, "break_long_words": False}


def markdown(settings: type[Settings]) -> str:
    """A heading, the first line of the description and a table of the options."""
    lines = [f"## `{settings.kind()}`", "", summary(settings), ""]
    lines += ["| option | values | default | meaning |", "|---|---|---|---|"]
    for option in options_of(settings):
        name, values, default, meaning = (text.replace("|", "\\|") for text in option)
        shown = default if default in ("", REQUIRED) else f"`{default}`"
        lines.append(f"| `{name}` | {values} | {shown} | {meaning} |")
    return "\n".join(lines) + "\n"
