"""Runs of one method put together: means, frontier membership, tests against the baseline."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedopt.comparison import statistics
from fedopt.comparison.expansion import Cell

Rows = list[dict[str, Any]]


def cell_of(row: Any) -> Cell:
    """The cell of a table row (mapping with the cell columns)."""
    level = row["level"]
    missing = level is None or level != level
    return Cell(row["base"], row["variant"], None if missing else float(level), row["level_kind"])


NO_PRIVACY = (None, None, None, None)


def ground_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What the row's epsilon is a statement about; ``NO_PRIVACY`` without."""
    return row["unit"], row["relation"], row["delta"], row["hypothetical_population"]


def grouped(runs: list[dict[str, Any]]) -> dict[Cell, list[dict[str, Any]]]:
    """Runs by cell, in order of appearance."""
    groups: dict[Cell, list[dict[str, Any]]] = {}
    for row in runs:
        groups.setdefault(cell_of(row), []).append(row)
    return groups


def cell_rows(runs: list[dict[str, Any]], confidence: float) -> list[dict[str, Any]]:
    """Rows of the cells table: one per method, noise level and base."""
    rows = [_cell(cell, group, confidence) for cell, group in grouped(runs).items()]
    goal = runs[0]["goal"] if runs else "max"
    for row in rows:
        row["on_frontier"] = False
    for base, ground in sorted({(r["base"], ground_key(r)) for r in rows}, key=str):
        own = [r for r in rows if r["base"] == base]
        if ground == NO_PRIVACY and any(ground_key(r) != NO_PRIVACY for r in own):
            continue
        # Without privacy epsilon is infinite: such a run competes on every ground.
        same = [r for r in own if ground_key(r) in (ground, NO_PRIVACY)]
        costs = frontier_costs(own)
        points = np.array([_criteria(r, goal, costs) for r in same])
        for row, kept in zip(same, statistics.pareto(points), strict=True):
            row["on_frontier"] = row["on_frontier"] or bool(kept)
    return rows


def frontier_costs(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Columns of what methods of one base are compared by, besides utility and epsilon.

    Evaluations of the objective are one of them where every method asks for values; a gradient is not a number of them.
    """
    judged = [r for r in rows if r["mean"] is not None]
    return ("time_s", "total_bytes", *(("queries",) if judged and all(r["queries"] for r in judged) else ()))


def _criteria(row: dict[str, Any], goal: str, costs: tuple[str, ...]) -> list[float]:
    """(utility, epsilon, costs), smaller is better; a private run without finite epsilon counts as infinite."""
    mean = math.nan if row["mean"] is None else row["mean"]
    epsilon = math.inf if row["epsilon"] is None else row["epsilon"]
    return [-mean if goal == "max" else mean, epsilon, *(row[name] or 0.0 for name in costs)]


def _cell(cell: Cell, group: list[dict[str, Any]], confidence: float) -> dict[str, Any]:
    counted = [r for r in group if r.get("metric") is not None] or group
    ended = [r for r in group if r["status"] != "running"]

    def values(name: str) -> list[float]:
        return [r[name] for r in group if r.get(name) is not None]

    def mean(name: str) -> float | None:
        found = [r[name] for r in counted if r.get(name) is not None]
        return float(np.mean(found)) if found else None

    def first(name: str) -> Any:
        return next((r[name] for r in group if r.get(name) is not None), None)

    interval = statistics.t_interval(values("metric"), confidence)
    spent = values("epsilon")
    return {
        "base": cell.base,
        "variant": cell.variant,
        "level": cell.level,
        "level_kind": cell.level_kind,
        "runs": len(group),
        "seeds": interval.number,
        "diverged": sum(r["status"] == "diverged" for r in group),
        "failed": sum(r["status"] == "failed" for r in group),
        "unfinished": len(group) - len(ended),
        "metric_name": first("metric_name"),
        "mean": _known(interval.mean),
        "deviation": _known(interval.deviation),
        "low": _known(interval.low),
        "high": _known(interval.high),
        "worst_decile": mean("worst_decile"),
        "epsilon": max(spent) if spent and len(spent) == len(values("unit")) else None,
        "delta": first("delta"),
        "unit": first("unit"),
        "relation": first("relation"),
        "hypothetical_population": first("hypothetical_population"),
        "trust": first("trust"),
        "time_s": mean("time_s"),
        "total_bytes": mean("total_bytes"),
        "queries": mean("queries"),
        "reached": len(values("steps_to_target")),
        "time_to_target_s": _until(ended, "time_to_target_s"),
        "bytes_to_target": _until(ended, "bytes_to_target"),
        "queries_to_target": _until(ended, "queries_to_target"),
        "epsilon_to_target": _until(ended, "epsilon_to_target"),
    }


def _until(group: list[dict[str, Any]], name: str) -> float | None:
    """Median cost to the target, infinite for a run that never reached it; None where the median is infinite."""
    costs = [math.inf if r.get(name) is None else r[name] for r in group]
    return _known(float(np.median(costs))) if costs else None


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# ---- tests against the baseline ------------------------------------------------------------------------------------


def tested_rows(runs: list[dict[str, Any]], baseline: str, goal: str, confidence: float) -> list[dict[str, Any]]:
    """Rows of the tests table: every method against the baseline of its base, adjusted together."""
    groups = grouped(runs)
    rows, results = [], []
    for cell, group in groups.items():
        if cell.variant == baseline:
            continue
        reference = _reference(cell, groups, baseline)
        if reference is None:
            continue
        result = statistics.paired_test(_by_seed(group), _by_seed(groups[reference]), confidence)
        results.append(result)
        rows.append(
            {
                "base": cell.base,
                "variant": cell.variant,
                "level": cell.level,
                "level_kind": cell.level_kind,
                "baseline": reference.label,
                "difference": _known(result.difference),
                "low": _known(result.low),
                "high": _known(result.high),
                "p_value": _known(result.p_value),
                "pairs": result.pairs,
            }
        )
    for row, adjusted in zip(rows, statistics.holm([r.p_value for r in results]), strict=True):
        row["p_holm"] = _known(adjusted)
        row["verdict"] = _verdict(row, goal, 1 - confidence)
    return rows


def _reference(cell: Cell, groups: dict[Cell, Any], baseline: str) -> Cell | None:
    """The baseline at the same level, else at the only level it has."""
    same = [c for c in groups if c.base == cell.base and c.variant == baseline]
    exact = [c for c in same if c.level == cell.level]
    return exact[0] if exact else same[0] if len(same) == 1 else None


def _by_seed(group: list[dict[str, Any]]) -> dict[int, float]:
    return {r["seed"]: r["metric"] for r in group if r.get("metric") is not None}


def _verdict(row: dict[str, Any], goal: str, alpha: float) -> str:
    if row["p_holm"] is None:
        return "untested"
    if row["p_holm"] > alpha:
        return "not separable"
    return "better" if (row["difference"] > 0) == (goal == "max") else "worse"
