"""Run directories as methods: those that differ only in their seed belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedopt.comparison.expansion import Cell
from fedopt.comparison.results import Entry
from fedopt.runlog import RunLogError, read_summary, run_state
from fedopt.scenario_file import read_yaml

_IGNORED = ("name", "seed", "engine", "resolved", "schema_version")


def entries_of(directories: Sequence[Path]) -> list[Entry]:
    """One entry per directory, methods named by what tells them apart.

    Raises:
        RunLogError: a directory holds no run, or the same run is given twice.
    """
    settings: list[dict[str, Any]] = []
    names, seeds = [], []
    for directory in directories:
        if run_state(directory) == "absent" or not (directory / "scenario.yaml").exists():
            raise RunLogError(f"{directory} holds no run; give run directories, or one comparison file")
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


def _refuse_twins(group: list[int], seeds: list[int], directories: Sequence[Path]) -> None:
    first: dict[int, Path] = {}
    for i in group:
        if seeds[i] in first:
            raise RunLogError(
                f"{directories[i]} repeats {first[seeds[i]]}: the same scenario with the same seed; give one of them"
            )
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
