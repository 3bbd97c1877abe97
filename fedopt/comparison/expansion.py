"""From a description to runs: overrides applied, every run validated, content hashed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedopt.comparison.description import Base, Described
from fedopt.own_sources import digests
from fedopt.problems import ConfigurationError, Problem
from fedopt.scenario import Scenario, ScenarioError, from_mapping

# Packages and files that cannot change the numbers of a run: changing them keeps finished runs usable.
_OUTSIDE = ("comparison", "report", "flower", "cli.py", "template.py", "progress.py", "verify.py", "event_files.py")


@dataclass(frozen=True)
class Cell:
    """One method at one noise level on one base: what is averaged over seeds.

    Args:
        base: name of the base, or empty.
        variant: name of the variant.
        level: target epsilon or noise multiplier, or None.
        level_kind: ``epsilon``, ``noise_multiplier`` or empty.
    """

    base: str
    variant: str
    level: float | None = None
    level_kind: str = ""

    @property
    def label(self) -> str:
        """For people: ``base / variant, epsilon 2``."""
        named = f"{self.base} / {self.variant}" if self.base else self.variant
        if self.level is None:
            return named
        return f"{named}, {self.level_kind.replace('_', ' ')} {self.level:g}"


@dataclass(frozen=True)
class PlannedRun:
    """One run.

    Args:
        cell: what it belongs to.
        seed: its seed.
        scenario: complete and checked.
        split: which examples it trains on and is judged by, see ``fedopt.comparison.splits``.
        chosen: tuned values, dotted key -> value.
    """

    cell: Cell
    seed: int
    scenario: Scenario
    split: str = "whole"
    chosen: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """Hash of everything that decides the numbers: resolved scenario, split and code, the user's own included."""
        return run_key(self.scenario, self.split)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.cell.label}, seed {self.seed}"

    @property
    def label_with_values(self) -> str:
        """For people who watch the trials: one cell and seed tries several values."""
        return ", ".join([self.label, *(f"{key} {value}" for key, value in self.chosen)])


def run_key(scenario: Scenario, split: str = "whole") -> str:
    """16 hexadecimal digits; equal for runs that give equal numbers.

    The name and how the work is computed (device, chunk, threads) are left out, the arithmetic is not.
    """
    resolved = scenario.resolved()
    body = {k: v for k, v in resolved.items() if k not in ("name", "engine")}
    body |= {"dtype": scenario.engine.dtype, "split": split, "code": computing_code(), "own": digests(scenario)}
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def computing_code() -> str:
    """Hash of the source files that can change a number of a run."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if relative.parts[0] not in _OUTSIDE:
            digest.update(relative.as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def expand(described: Described, chosen: Mapping[Cell, Mapping[str, Any]] | None = None) -> list[PlannedRun]:
    """Every run of the comparison: bases x variants x noise levels (private variants only) x seeds.

    Args:
        described: the comparison.
        chosen: tuned values per cell.
    Raises:
        ScenarioError: every problem of every run, each once, at its line in the comparison or the base file.
    """
    description = described.description
    problems: dict[str, None] = {}
    runs: list[PlannedRun] = []
    levels_used = False
    for cell in cells(described):
        levels_used = levels_used or cell.level is not None
        tuned = dict((chosen or {}).get(cell, {}))
        for seed in description.seeds:
            try:
                runs.append(planned(described, cell, seed, tuned))
            except ScenarioError as error:
                problems |= dict.fromkeys(error.problems)
                break  # another seed has the same problems
    if description.levels and not levels_used:
        key = "epsilons" if description.epsilons else "noise_multipliers"
        problems[described.message((key,), "no variant has a privacy section that could use it")] = None
    if problems:
        raise ScenarioError(list(problems))
    return runs


def cells(described: Described) -> list[Cell]:
    """Bases x variants x noise levels; variants without privacy have no levels."""
    description = described.description
    found = []
    for base in described.bases:
        for variant in description.variants:
            privacy = _merged(described, base, variant).get("privacy")
            is_private = bool(privacy) and isinstance(privacy, dict)
            levels = description.levels if is_private else ()
            found += [Cell(base, variant, level, description.level_kind) for level in levels] or [Cell(base, variant)]
    return found


def planned(
    described: Described, cell: Cell, seed: int, tuned: Mapping[str, Any], split: str | None = None
) -> PlannedRun:
    """One run of a cell.

    Raises:
        ScenarioError: the scenario is not valid.
    """
    description = described.description
    values = _merged(described, cell.base, cell.variant)
    override(values, dict(tuned))
    if cell.level is not None:
        mechanism = values["privacy"].get("mechanism")
        if cell.level_kind == "epsilon":
            values["privacy"]["target_epsilon"] = cell.level
            if isinstance(mechanism, dict):
                mechanism.pop("noise_multiplier", None)
        else:
            values["privacy"].pop("target_epsilon", None)
            values["privacy"]["mechanism"] = {
                **(mechanism if isinstance(mechanism, dict) else {"kind": mechanism}),
                "noise_multiplier": cell.level,
            }
    values["seed"], values["name"] = seed, _file_name(cell)
    try:
        scenario = from_mapping(values)
    except ConfigurationError as error:
        raise ScenarioError([_located(described, cell, problem) for problem in error.problems]) from error
    halved = description.tune is not None and description.tune.data == "test_half"
    return PlannedRun(cell, seed, scenario, split or ("second_half" if halved else "whole"), tuple(tuned.items()))


def _file_name(cell: Cell) -> str:
    parts = [cell.base, cell.variant, *([f"{cell.level_kind}-{cell.level:g}"] if cell.level is not None else [])]
    text = "-".join(part for part in parts if part)
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)


def _merged(described: Described, base: str, variant: str) -> dict[str, Any]:
    values = copy.deepcopy(described.bases[base].values)
    override(values, copy.deepcopy(described.description.variants[variant] or {}))
    return values


def override(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Apply overrides in place: dotted or nested keys; a mapping with ``kind`` replaces, one without is merged.

    >>> body = {"client": {"kind": "sgd", "lr": 1}, "run": {"server_steps": 2}}
    >>> override(body, {"client.lr": 3, "run": {"server_steps": 5}, "aggregator": {"kind": "fedbuff"}})
    >>> body
    {'client': {'kind': 'sgd', 'lr': 3}, 'run': {'server_steps': 5}, 'aggregator': {'kind': 'fedbuff'}}
    """
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = values
        for part in parents:
            if isinstance(inner.get(part), str):  # the short form of a component: only its kind
                inner[part] = {"kind": inner[part]}
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        if isinstance(value, Mapping) and "kind" not in value and isinstance(inner.get(last), dict):
            override(inner[last], value)
        else:
            inner[last] = value


def _located(described: Described, cell: Cell, problem: Problem) -> str:
    """The problem at the line of the override that caused it, else of the base."""
    base: Base = described.bases[cell.base]
    changes = described.description.variants[cell.variant] or {}
    inside = _override_path(changes, problem.path)
    if inside is not None:
        return described.message(("variants", cell.variant, *inside), problem.message)
    where = base.where
    if where is None:
        return described.message((*base.prefix, *problem.path), f"{problem.message} (variant {cell.variant})")
    remark = problem.message.rstrip(".")
    found = Problem(path=(*base.prefix, *problem.path), message=f"{remark} (variant {cell.variant})")
    return where.message(found)


def _override_path(changes: Mapping[str, Any], path: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
    """Path of the override that sets ``path`` or something inside it, or None if none does."""
    for key, value in changes.items():
        parts = tuple(key.split("."))
        if path[: len(parts)] == parts:
            rest = path[len(parts) :]
            deeper = _override_path(value, rest) if isinstance(value, Mapping) and rest else None
            if deeper is not None:
                return (key, *deeper)
            if not isinstance(value, Mapping) or "kind" in value or not rest:
                return (key, *rest)
        elif parts[: len(path)] == path:
            return (key,)
    return None
