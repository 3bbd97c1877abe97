"""A comparison file: typed, strict, with every problem at once as file:line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fedopt.components import Section, parse
from fedopt.own_sources import look_beside
from fedopt.problems import Problem
from fedopt.scenario_file import ScenarioError, Where, read_yaml

Found = tuple[tuple[str | int, ...], str]  # where something is wrong, and what


class Tune(Section):
    """Hyper-parameters are chosen before the comparison, with the same number of trials for every method."""

    method: Literal["grid", "random"] = Field("grid", description="every combination, or random draws")
    trials: int | None = Field(None, ge=1, description="random draws per method; not used by a grid")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="dotted key -> list of values; for random draws also {low, high, log}",
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="variant -> its own parameters instead of the common ones"
    )
    data: Literal["training", "test_half", "objective"] = Field(
        "training",
        description="what trials are judged on: examples held out from training, half of the test set (the "
        "comparison then uses the other half), or the objective itself (black-box tasks only)",
    )
    share: float = Field(0.2, gt=0, lt=1, description="share of every client's training examples held out")
    seed: int = Field(1000, ge=0, description="seed of the trials; must not be a seed of the comparison")

    def inconsistencies(self) -> list[Found]:
        """What does not fit together, as path inside this section and message; empty if all does."""
        found: list[Found] = []
        if self.method == "random" and self.trials is None:
            found.append(((), "random draws need trials: how many per method"))
        if self.method == "grid" and self.trials is not None:
            found.append((("trials",), "a grid tries every combination; leave trials out, or use method: random"))
        if not self.parameters and not self.variants:
            found.append(((), "nothing to tune: give parameters"))
        return found


class Description(Section):
    """What is compared, at which noise, over which seeds, and how it is judged."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$", description="names the folder of the comparison")
    title: str = Field("", description="heading of the report; default: the name")
    question: str = Field("", description="one sentence under the heading: what is to be settled")
    base: Any = Field(None, description="scenario file, relative to this file, or a scenario written here")
    bases: dict[str, Any] = Field(default_factory=dict, description="several named bases instead of one")
    variants: dict[str, dict[str, Any] | None] = Field(
        min_length=1,
        description="name -> keys that differ from the base, dotted or nested; a mapping with kind replaces a "
        "component, one without is merged; null removes a section",
    )
    epsilons: tuple[float, ...] = Field((), strict=False, description="privacy.target_epsilon of private variants")
    noise_multipliers: tuple[float, ...] = Field(
        (), strict=False, description="privacy.mechanism.noise_multiplier of private variants"
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), strict=False, min_length=1, description="seeds every method runs with")
    baseline: str | None = Field(None, description="variant the others are tested against; default: the first")
    metric: Literal["metric_value", "test_loss", "test_accuracy"] = Field(
        "metric_value", description="column of the rounds table that is compared"
    )
    goal: Literal["max", "min"] | None = Field(None, description="which direction is better; default: the task's")
    target: float | None = Field(
        None, description="metric whose time, bytes and epsilon are reported; default: what the baseline ends with"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of intervals; tests reject at 1 - confidence")
    relation: Literal["add_or_remove_one", "zero_out_one", "replace_one"] | None = Field(
        None, description="account every run again under this relation where a proof exists"
    )
    delta: float | None = Field(None, gt=0, lt=1, description="account every run again at this delta")
    tune: Tune | None = Field(None, description="choose hyper-parameters first; leave out for none")
    processes: int = Field(1, ge=1, description="runs at the same time")
    batch_runs: Literal["auto", "never", "always"] = Field(
        "auto", description="train runs of equal models in common passes: where that is faster, never, or always"
    )
    executor: Literal["processes", "ray"] = Field("processes", description="ray needs the extra fedopt[ray]")

    def inconsistencies(self) -> list[Found]:
        """What does not fit together or names no variant, as path and message; empty if all does."""
        found: list[Found] = []
        if (self.base is None) == (not self.bases):
            found.append((("bases",) if self.bases else (), "give either base or bases"))
        if self.epsilons and self.noise_multipliers:
            found.append((("noise_multipliers",), "give either epsilons or noise_multipliers"))
        if len(set(self.seeds)) != len(self.seeds):
            found.append((("seeds",), f"must not repeat, got {list(self.seeds)}"))
        for name, levels in (("epsilons", self.epsilons), ("noise_multipliers", self.noise_multipliers)):
            if any(level <= 0 for level in levels) or len(set(levels)) != len(levels):
                found.append(((name,), f"must be > 0 and not repeat, got {list(levels)}"))
        known = ", ".join(self.variants)
        if self.baseline is not None and self.baseline not in self.variants:
            found.append((("baseline",), f"{self.baseline!r} is no variant; known: {known}"))
        if self.tune is not None:
            found += [(("tune", *path), message) for path, message in self.tune.inconsistencies()]
            unknown = [name for name in self.tune.variants if name not in self.variants]
            found += [(("tune", "variants", name), f"is no variant; known: {known}") for name in unknown]
            if self.tune.seed in self.seeds:
                remark = "is a seed of the comparison; tuning on it would favour luck"
                found.append((("tune", "seed"), f"{self.tune.seed} {remark}"))
        return found

    @property
    def levels(self) -> tuple[float, ...]:
        """Target epsilons or noise multipliers, whichever are given."""
        return self.epsilons or self.noise_multipliers

    @property
    def level_kind(self) -> str:
        """``epsilon``, ``noise_multiplier`` or empty."""
        return "epsilon" if self.epsilons else "noise_multiplier" if self.noise_multipliers else ""

    @property
    def reference(self) -> str:
        """The variant others are tested against."""
        return self.baseline or next(iter(self.variants))


class Base:
    """A base scenario as a mapping, and where its keys stand.

    Args:
        values: the scenario before overrides.
        where: finds lines in its file.
        prefix: path of the scenario inside that file; empty for a file of its own.
    """

    def __init__(self, values: dict[str, Any], where: Where | None, prefix: tuple[str | int, ...] = ()):
        self.values, self.where, self.prefix = values, where, prefix


class Described:
    """A description with its bases read and a way to say where a problem stands.

    Args:
        description: the checked file.
        bases: name -> base; one without a name is ``""``.
        where: finds lines in the comparison file; None for a description made in Python.
    """

    def __init__(self, description: Description, bases: dict[str, Base], where: Where | None):
        self.description, self.bases, self.where = description, bases, where

    def message(self, path: tuple[str | int, ...], message: str) -> str:
        """``file:line:column: key: message`` of the comparison file."""
        return _message(self.where, path, message)


def read_description(source: str | Path | dict[str, Any]) -> tuple[Described | None, list[str]]:
    """Read a comparison, and what is wrong with it.

    Args:
        source: a file, or the same as a mapping with paths relative to the working directory.
    Returns:
        The comparison, without what is wrong with it, so that its runs can be checked too; None where nothing is left
        to check. And every problem of the file, each with file and line.
    Raises:
        ScenarioError: the file cannot be read, or is a scenario.
    """
    if isinstance(source, dict):
        values, where, folder = source, None, Path()
    else:
        path = Path(source)
        values, where = read_yaml(path)
        folder = path.parent
        look_beside(values, folder)
        if "variants" not in values and {"data", "model", "client"} <= set(values):
            raise ScenarioError(
                [
                    f"{path}: this is a scenario, not a comparison; run it with `fedopt simulate {path}`, or name it "
                    "as base of a comparison file (docs/compare.md)."
                ]
            )
    problems: list[Problem] = []
    found = parse(Description, values, (), problems)
    errors = [_message(where, p.path, p.message) for p in problems]
    # One variant, or something inside the section on tuning, leaves the others to be judged.
    broken = {p.path[0] for p in problems if p.path and (len(p.path) == 1 or p.path[0] not in ("variants", "tune"))}
    if not isinstance(found, Description):
        found = parse(Description, _with_stand_ins(values, [p.path for p in problems]), (), [])
    if not isinstance(found, Description):
        return None, errors
    errors += [_message(where, path, text) for path, text in found.inconsistencies() if not _follows(path, broken)]
    bases = _bases(found, where, folder, errors)
    return Described(_checkable(found), bases, where) if bases and "variants" not in broken else None, errors


_STAND_INS = {"name": "unnamed", "variants": {"unnamed": None}, "epsilons": [1.0], "noise_multipliers": [1.0]}
_STAND_INS["seeds"] = [2**31 - 1]


def _with_stand_ins(values: dict[str, Any], wrong: list[tuple[str | int, ...]]) -> dict[str, Any]:
    """The values with something valid, or nothing, in the place of what is wrong."""
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key, *inside in wrong:
        if key == "variants" and inside:
            made["variants"][inside[0]] = None
        elif key == "tune" and inside and inside[0] not in Tune.model_fields:
            made.get("tune", {}).pop(inside[0], None)
        else:
            made.pop(str(key), None)
            made |= {k: v for k, v in _STAND_INS.items() if k == key}
    return made


def _follows(path: tuple[str | int, ...], broken: set[str | int]) -> bool:
    """Whether this was said because something else is wrong: it may be right once that is mended."""
    if not path or path[0] == "bases":
        return "bases" in broken
    about_names = path[0] == "baseline" or path[:2] == ("tune", "variants")
    return path[0] in broken or (about_names and "variants" in broken)


def _checkable(found: Description) -> Description:
    """The description with values that do not hinder checking its runs where they are inconsistent."""
    changes: dict[str, Any] = {"seeds": tuple(dict.fromkeys(found.seeds))}
    for name in ("epsilons", "noise_multipliers"):
        given: tuple[float, ...] = getattr(found, name)
        possible = tuple(dict.fromkeys(level for level in given if level > 0))
        changes[name] = possible or (given and (1.0,))
    tune = None if found.tune is None or found.tune.inconsistencies() else found.tune
    return found.model_copy(update={**changes, "tune": tune})


def _message(where: Where | None, path: tuple[str | int, ...], message: str) -> str:
    if where is not None:
        found = where.message(Problem(path=path, message=message))
        return found if path else found.replace(": scenario: ", ": comparison: ", 1)
    return f"{'.'.join(map(str, path)) or 'comparison'}: {message}"


def _bases(found: Description, where: Where | None, folder: Path, errors: list[str]) -> dict[str, Base]:
    written = {"": found.base} if found.base is not None else found.bases
    bases = {}
    for name, value in written.items():
        path: tuple[str | int, ...] = ("bases", name) if name else ("base",)
        if isinstance(value, dict):
            bases[name] = Base(value, where, path)
        elif isinstance(value, str):
            try:
                bases[name] = Base(*read_yaml(folder / value))
                look_beside(bases[name].values, (folder / value).parent)
            except ScenarioError as error:
                errors.extend(_message(where, path, problem) for problem in error.problems)
        else:
            errors.append(_message(where, path, f"must be a scenario file or a scenario, got {value!r}"))
    return bases
