"""Configuration problems in words: where, what is wrong with which value, what to do."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

# What other tools call it; offered only where it is an option.
SYNONYMS = {
    "learning_rate": "lr",
    "local_epochs": "epochs",
    "num_epochs": "epochs",
    "local_steps": "steps",
    "num_steps": "steps",
    "batchsize": "batch_size",
    "num_clients": "clients",
    "clients_per_round": "cohort_size",
    "num_rounds": "server_steps",
    "rounds": "server_steps",
    "sampling_rate": "sampling_probability",
    "server_learning_rate": "server_lr",
    "gpu": "cuda",
}


# What patterns of options stand for.
FORMS = {
    r"^[A-Za-z0-9._-]+$": "of letters, digits, '.', '_' and '-' only",
    r"^[\w.]+:\w+$": "package.module:name",
}


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
    found, told = [], set()
    for item in error.errors(include_url=False):
        location = tuple(item["loc"])
        if location and location[0] in broken:
            continue  # already reported inside
        choices = _choices(settings, location)
        if choices:  # one error for each of them
            if location[0] not in told:
                told.add(location[0])
                near = _nearest(str(item["input"]), choices.split(" or "))
                hint = f"; did you mean {near}?" if near else ""
                message = f"must be {choices}, got {item['input']!r}{hint}"
                found.append(Problem(path=(*path, location[0]), message=message))
            continue
        found.append(Problem(path=(*path, *location), message=_message(_title(settings, path), settings, item)))
    return found


def _choices(settings: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """The types that a field may be of, in words, where the error is about one of several; else empty."""
    from fedopt.option_words import alternatives

    field = settings.model_fields.get(str(location[0])) if len(location) > 1 else None
    return alternatives(field.annotation) if field is not None else ""


def _title(settings: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """What a user calls it: ``client: sgd``, ``run``, or at the top the file itself."""
    key, kind = ".".join(map(str, path)), getattr(settings, "kind", None)
    if kind is not None:
        return f"{key}: {kind()}" if key else str(kind())
    return key or {"Scenario": "a scenario", "Description": "a comparison"}.get(settings.__name__, settings.__name__)


def _nearest(given: str, known: list[str]) -> str | None:
    meant = SYNONYMS.get(given.lower())
    if meant in known:
        return meant
    return next(iter(difflib.get_close_matches(given, known, n=1)), None)


def _message(title: str, settings: type[BaseModel], item: Any) -> str:
    given, context = item.get("input"), item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            near = _nearest(str(item["loc"][-1]), list(settings.model_fields))
            known = f"known: {', '.join(settings.model_fields)}" if settings.model_fields else "it has none"
            hint = f"did you mean {near}?" if near else known
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
            near = _nearest(str(given), context["expected"].replace("'", "").replace(",", "").split())
            hint = f"; did you mean {near}?" if near else ""
            return f"must be one of {context['expected']}, got {given!r}{hint}"
        case "string_pattern_mismatch":
            return f"must be {FORMS.get(context['pattern'], context['pattern'])}, got {given!r}"
        case "value_error":
            return str(context.get("error", item["msg"]))
        case _:
            text = item["msg"].replace("Input should be", "must be").replace("valid integer", "whole number")
            return f"{text[0].lower()}{text[1:]}, got {given!r}"
