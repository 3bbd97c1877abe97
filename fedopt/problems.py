"""Configuration problems in words: where, what is wrong with which value, what to do."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Problem(BaseModel):
    """One configuration problem: a path into the scenario, and what is wrong and what to do."""

    model_config = ConfigDict(frozen=True)
    path: tuple[str | int, ...]
    message: str


class ConfigurationError(ValueError):
    """All configuration problems of a scenario together.

    Attributes:
        problems: every problem found, each with its path into the scenario.
    """

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(f"{'.'.join(map(str, p.path))}: {p.message}" for p in problems))


def problems_in(
    settings: type[BaseModel], error: ValidationError, path: tuple[str | int, ...], broken: set[str | int]
) -> list[Problem]:
    """What a settings class refused, without the fields in ``broken``, which were reported inside."""
    found = []
    for item in error.errors(include_url=False):
        location = tuple(item["loc"])
        if location and location[0] in broken:
            continue  # already reported inside
        found.append(Problem(path=(*path, *location), message=_message(settings, item, location)))
    return found


def _message(settings: type[BaseModel], item: Any, location: tuple[str | int, ...]) -> str:
    given, context = item.get("input"), item.get("ctx", {})
    title = settings.__name__
    match item["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), list(settings.model_fields), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(settings.model_fields)}"
            return f"unknown option of {title}; {hint}"
        case "missing":
            return "is required"
        case "greater_than":
            return f"must be > {context['gt']:g}, got {given!r}"
        case "greater_than_equal":
            return f"must be >= {context['ge']:g}, got {given!r}"
        case "less_than":
            return f"must be < {context['lt']:g}, got {given!r}"
        case "less_than_equal":
            return f"must be <= {context['le']:g}, got {given!r}"
        case "literal_error":
            near = difflib.get_close_matches(str(given), context["expected"].replace("'", "").split(), n=1)
            hint = f"; did you mean {near[0].strip(',')}?" if near else ""
            return f"must be one of {context['expected']}, got {given!r}{hint}"
        case "value_error":
            return str(context.get("error", item["msg"]))
        case _:
            text = item["msg"].replace("Input should be", "must be").replace("valid integer", "whole number")
            return f"{text[0].lower()}{text[1:]}, got {given!r}"
