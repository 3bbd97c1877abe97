"""Run directories as methods: those that differ only in their seed belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedopt.comparison.expansion import Cell
from fedopt.comparison.results import Entry
from fedopt.runlog import read_summary, run_state
from fedopt.scenario_file import ScenarioError, read_yaml

_IGNORED = ("name", "seed", "engine", "resolved", "schema_version")


def entries_of(directories: Sequence[Path]) -> list[Entry]:
    """One entry per directory, methods named by what tells them apart.

    Raises:
        ScenarioError: directories hold no run (all are named), or the same run is given twice.
    """
    strangers = [directory for directory in directories if not _holds_run(directory)]
    if strangers:
        raise ScenarioError([f"{directory}: holds no run; {_remedy(directory)}." for directory in strangers])
    settings: list[dict[str, Any]] = []
    names, seeds = [], []
    for directory in directories:
        values, _ = read_yaml(directory / "scenario.yaml")
        names.append(str(values.get("name", directory.name)))
        seeds.append(int(values.get("seed", read_summary(directory).get("seed") or 0)))
        settings.append({k: v for k, v in values.items() if k not in _IGNORED})
    groups: dict[str, list[int]] = {}
    for i, body in enumerate(settings):
        groups.setdefault(json.dumps(body, sort_keys=True, default=str), []).append(i)
    labels = _labels([settings[g[0]] for g in groups.values()], [names[g[0]] for g in groups.values()])
    found: dict[int, Entry] = {}
    for label, group in zip(labels, groups.values(), strict=True):
        _refuse_twins(group, seeds, directories)
        for i in group:
            found[i] = Entry(Cell("", label), seeds[i], directories[i])
    return [found[i] for i in range(len(directories))]


def _holds_run(directory: Path) -> bool:
    return run_state(directory) != "absent" and (directory / "scenario.yaml").exists()


def _remedy(directory: Path) -> str:
    if directory.is_dir() and any(_holds_run(inner) for inner in directory.iterdir()):
        return f"its folders do: give {directory}/*"
    return "give run directories, or one comparison file"


def _refuse_twins(group: list[int], seeds: list[int], directories: Sequence[Path]) -> None:
    first: dict[int, Path] = {}
    for i in group:
        if seeds[i] in first:
            again, twin = directories[i], first[seeds[i]]
            raise ScenarioError([f"{again}: repeats {twin}: the same scenario with the same seed; give one of them."])
        first[seeds[i]] = directories[i]


def _labels(settings: list[dict[str, Any]], names: list[str]) -> list[str]:
    """The scenario's name where it tells methods apart, with the settings that differ where it does not."""
    if len(set(names)) == len(names):
        return names
    flat = [dict(_flattened(body)) for body in settings]
    keys = dict.fromkeys(key for body in flat for key in body)
    differing = [key for key in keys if len({json.dumps(body.get(key), default=str) for body in flat}) > 1]
    labels = []
    for name, body in zip(names, flat, strict=True):
        shown = [f"{key} {body[key]}" for key in differing if key in body][:4]
        labels.append(", ".join([name, *shown]))
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({i + 1})" for i, label in enumerate(labels)]
    return labels


def _flattened(body: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in body.items():
        if isinstance(value, Mapping):
            found += _flattened(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
