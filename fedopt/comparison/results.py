"""From run directories to tidy tables: one row per run, per evaluation, per method, per test."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedopt.comparison import statistics, tables
from fedopt.comparison.cells import cell_of, cell_rows, tested_rows
from fedopt.comparison.expansion import Cell
from fedopt.comparison.ground import Claim, claim_of
from fedopt.report.run_data import RunData, load_run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Entry", "Judging", "Results", "cell_of", "collect", "final_metric"]

LOWER_IS_BETTER = ("test_loss",)
# Runs of these statuses have no result: the model is not finite, no step could be made, or it is not there yet.
WITHOUT_RESULT = ("diverged", "failed", "running")


@dataclass(frozen=True)
class Judging:
    """How runs are judged.

    Args:
        metric: column of the rounds table.
        goal: ``max``, ``min`` or None for the task's.
        target: metric to reach, or None for what the baseline ends with.
        baseline: variant others are tested against.
        confidence: of intervals.
        relation, delta: common ground, or None.
    """

    metric: str = "metric_value"
    goal: str | None = None
    target: float | None = None
    baseline: str = ""
    confidence: float = 0.95
    relation: Any = None
    delta: float | None = None


@dataclass(frozen=True)
class Entry:
    """A run of the comparison, and where it lies. ``how`` and ``error`` as in ``runs.Done``."""

    cell: Cell
    seed: int
    directory: Path
    how: str = "reused"
    error: str = ""
    chosen: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Results:
    """Tables of a comparison, and what the report says beside them."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    cells: pd.DataFrame
    tests: pd.DataFrame
    claims: dict[tuple[Cell, int], Claim] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def collect(entries: Sequence[Entry], judging: Judging, folder: Path) -> Results:
    """Read every run and judge.

    Args:
        entries: runs that exist or failed.
        judging: how.
        folder: directories are written relative to it.
    """
    loaded = {i: load_run(e.directory) for i, e in enumerate(entries) if e.how != "failed"}
    goal = judging.goal or _goal(loaded, judging.metric)
    claims: dict[tuple[Cell, int], Claim] = {}
    runs: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for i, entry in enumerate(entries):
        data = loaded.get(i)
        row = _identity(entry) | {"how": entry.how, "error": entry.error or None, "status": "failed", "goal": goal}
        row["directory"] = _relative(entry.directory, folder)
        row["chosen"] = json.dumps(dict(entry.chosen), default=str) if entry.chosen else None
        if data is not None:
            claim = _claim(data, judging)
            if claim is not None:
                claims[entry.cell, entry.seed] = claim
            row |= _measured(data, judging.metric, goal, claim)
            if row["status"] in ("diverged", "failed"):
                row["error"] = entry.error or data.summary.get("reason")
            curves += [_identity(entry) | point for point in _curve(data, judging.metric)]
        runs.append(row)
    curve_of: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for point in curves:
        curve_of.setdefault(_run_key(point), []).append(point)
    targets = _targets(runs, judging)
    for row in runs:
        row |= _to_target(row, curve_of.get(_run_key(row), []), targets.get(row["base"]), goal)
    cells = cell_rows(runs, judging.confidence)
    return Results(
        tables.frame("runs", runs),
        tables.frame("curves", curves),
        tables.frame("cells", cells),
        tables.frame("tests", tested_rows(runs, judging.baseline, goal, judging.confidence)),
        claims,
        tuple(dict.fromkeys(r for d in loaded.values() for r in d.summary.get("references") or ())),
        tuple(dict.fromkeys(w for d in loaded.values() for w in d.summary.get("warnings") or ())),
    )


def _identity(entry: Entry) -> dict[str, Any]:
    cell = entry.cell
    return {
        "base": cell.base,
        "variant": cell.variant,
        "level": cell.level,
        "level_kind": cell.level_kind,
        "seed": entry.seed,
    }


def _run_key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["base"], row["variant"], row["level"], row["seed"]


def _goal(loaded: dict[int, RunData], metric: str) -> str:
    if metric in LOWER_IS_BETTER:
        return "min"
    goals = [d.summary.get("metric_goal") for d in loaded.values() if d.summary.get("metric_goal")]
    return "max" if metric == "test_accuracy" or not goals else str(goals[0])


def _relative(directory: Path, folder: Path) -> str:
    return Path(os.path.relpath(directory, folder)).as_posix()


def _claim(data: RunData, judging: Judging) -> Claim | None:
    if data.privacy is None:
        return None
    sizes = [n for n in data.clients["num_examples"].to_pylist() if n is not None]
    single = bool(sizes) and len(sizes) == data.summary.get("population") and max(sizes) <= 1
    return claim_of(data.privacy, judging.relation, judging.delta, single)


def _measured(data: RunData, metric: str, goal: str, claim: Claim | None) -> dict[str, Any]:
    s = data.summary
    last = final_metric(data, metric)
    up, down = s.get("uplink_bytes"), s.get("downlink_bytes")
    local = "local_loss" if metric == "test_loss" else "local_metric"
    fair = [v for v in data.clients[local].to_pylist() if v is not None]
    row = {
        "status": s.get("status", "running"),
        "metric_name": metric.replace("_", " ") if metric != "metric_value" else s.get("metric_name"),
        "metric": last,
        "test_loss": s.get("final_test_loss"),
        "worst_decile": statistics.worst_decile(fair, goal) if fair else None,
        "steps": s.get("steps"),
        "time_s": s.get("time_s"),
        "wall_s": s.get("wall_s"),
        "uplink_bytes": up,
        "downlink_bytes": down,
        "total_bytes": None if up is None or down is None else up + down,
        "queries": s.get("queries"),
    }
    if claim is not None:
        ground = claim.ground
        row |= {"epsilon": claim.epsilon, "delta": ground.delta, "unit": ground.unit, "relation": ground.relation}
        row |= {"trust": claim.trust, "accountant": claim.accountant, "ground_remark": claim.remark or None}
        row |= {"hypothetical_population": ground.hypothetical, "claimed_epsilon": s.get("epsilon")}
    return row


def final_metric(data: RunData, metric: str) -> float | None:
    """The metric at the last evaluation; None where it was never evaluated, and for a run that diverged, failed or
    is unfinished."""
    if data.summary.get("status", "running") in WITHOUT_RESULT:
        return None
    known = {"metric_value": "final_metric", "test_loss": "final_test_loss"}.get(metric, "")
    if data.summary.get(known) is not None:
        return float(data.summary[known])
    values = [v for v in data.round_column(metric) if v is not None]
    return values[-1] if values and math.isfinite(values[-1]) else None


def _curve(data: RunData, metric: str) -> list[dict[str, Any]]:
    columns = {name: data.round_column(name) for name in ("step", "time_s", "queries", "epsilon", "test_loss")}
    values, sent = data.round_column(metric), data.total_bytes
    return [
        {
            "step": columns["step"][i],
            "time_s": columns["time_s"][i],
            "total_bytes": sent[i],
            "queries": columns["queries"][i],
            "claimed_epsilon": columns["epsilon"][i],
            "metric": value,
            "test_loss": columns["test_loss"][i],
        }
        for i, value in enumerate(values)
        if value is not None
    ]


def _targets(runs: list[dict[str, Any]], judging: Judging) -> dict[str, float]:
    """Per base: the given target, or the mean the baseline ends with (at its first level)."""
    found: dict[str, float] = {}
    for base in {row["base"] for row in runs}:
        if judging.target is not None:
            found[base] = judging.target
            continue
        own = [
            r for r in runs if r["base"] == base and r["variant"] == judging.baseline and r.get("metric") is not None
        ]
        level = own[0]["level"] if own else None
        values = [r["metric"] for r in own if r["level"] == level]
        if values:
            found[base] = float(np.mean(values))
    return found


def _to_target(row: dict[str, Any], curve: list[dict[str, Any]], target: float | None, goal: str) -> dict[str, Any]:
    if target is None:
        return {}
    if row["status"] == "running":  # what it will need is not known yet
        return {"target": target}
    position = statistics.first_reaching([p["metric"] for p in curve], target, goal)
    if position is None:
        return {"target": target}
    point = curve[position]
    own = row.get("epsilon") is not None and row.get("ground_remark") is None
    return {
        "target": target,
        "steps_to_target": point["step"],
        "time_to_target_s": point["time_s"],
        "bytes_to_target": point["total_bytes"],
        "queries_to_target": point["queries"],
        "epsilon_to_target": point["claimed_epsilon"] if own else None,
    }
