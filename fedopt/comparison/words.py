"""What the numbers say, in plain words."""

from __future__ import annotations

import json
from typing import Any

from fedopt.comparison.results import Results, cell_of
from fedopt.report import text


def records(found: Any) -> list[dict[str, Any]]:
    """Rows of a data frame as dictionaries, with None for what is missing."""
    rows = found.to_dict("records")
    return [{k: None if v is None or (isinstance(v, float) and v != v) else v for k, v in row.items()} for row in rows]


def costs_in_words(results: Results) -> tuple[tuple[str, ...], list[list[str]]]:
    """Names and, for every cell, words of its costs: evaluations of the objective only where a method asks for them."""
    rows = records(results.cells)
    costs = [[text.duration(r["time_s"]), text.size(r["total_bytes"]), text.cell(r["queries"] or None)] for r in rows]
    names = ("virtual time", "bytes", "evaluations")
    shown = len(names) if any(r["queries"] for r in rows) else 2
    return names[:shown], [cost[:shown] for cost in costs]


VERDICTS = {"better": "better", "worse": "worse", "not separable": "not separable from noise"}


def verdicts(results: Results, confidence: float) -> list[str]:
    """What is and what is not separable from noise, a sentence per baseline."""
    rows = records(results.tests)
    if not rows:
        return ["There is one method only, so nothing is tested."]
    against: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["level"] or 0):
        against.setdefault(row["baseline"], []).append(row)
    order = list(dict.fromkeys(row["base"] for row in rows))
    groups = sorted(against.items(), key=lambda group: order.index(group[1][0]["base"]))
    found = [_sentence(baseline, group) for baseline, group in groups]
    untested = [cell_of(row).label for row in rows if row["verdict"] == "untested"]
    if untested:
        found.append(
            f"{_listed(untested)} could not be tested: that takes at least two seeds shared with the baseline."
        )
    lacking = [f"{cell_of(row).label}, {seeds_of(row)}" for row in records(results.cells) if without_result(row)]
    if lacking:
        found.append(f"Seeds with a result: {'; '.join(lacking)}. Means and tests are over those.")
    tests = len(rows) - len(untested)
    if not tests:
        return found
    name = next((r["metric_name"] for r in records(results.cells) if r["metric_name"]), "metric")
    adjusted = f", adjusted by Holm's method over all {tests} of them" if tests > 1 else ""
    found.append(
        f"In brackets: the difference in mean {name}. Paired t tests over shared seeds{adjusted}, "
        f"at {1 - confidence:.0%}. Seeds change the split, the devices, the batches and the "
        f"noise, not the data set: the statements are about this data.{_left_open(rows)}"
    )
    return found


def _sentence(baseline: str, rows: list[dict[str, Any]]) -> str:
    """``Against A, epsilon 1: B (-0.1) is worse; C (+0.01) is not separable from noise.``"""
    parts = []
    for verdict, words in VERDICTS.items():
        methods = [_difference(row) for row in rows if row["verdict"] == verdict]
        if methods:
            parts.append(f"{_listed(methods)} {'is' if len(methods) == 1 else 'are'} {words}")
    return f"Against {baseline}: {'; '.join(parts) or 'nothing could be tested'}."


def _difference(row: dict[str, Any]) -> str:
    """The method, without what it shares with its baseline, and the difference."""
    cell = cell_of(row)
    level = f", {cell.level_kind.replace('_', ' ')} {cell.level:g}" if cell.level is not None else ""
    name = cell.variant if row["baseline"].endswith(level) else cell.variant + level
    return f"{name} ({row['difference']:+.2g})"


def _left_open(rows: list[dict[str, Any]]) -> str:
    """How large a difference the tests that found none still allow."""
    reach = [max(abs(row["low"]), abs(row["high"])) for row in rows if row["verdict"] == "not separable"]
    if not reach:
        return ""
    return (
        f" Not separable does not mean equal: the intervals of those differences reach as far as {max(reach):.2g}; "
        "more seeds would narrow them."
    )


def shown_interval(row: dict[str, Any]) -> str:
    """Interval of a cell's mean, cut to what an accuracy can be."""
    if row["low"] is None:
        return text.MISSING
    low, high = row["low"], row["high"]
    if "accuracy" in str(row["metric_name"]):
        low, high = max(0.0, low), min(1.0, high)
    return f"{low:.4g} to {high:.4g}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def trouble(results: Results) -> str:
    """A banner if runs failed, diverged or are unfinished, else empty."""
    rows = records(results.runs)
    failed, diverged, unfinished = (
        [_run_label(r) for r in rows if r["status"] == status] for status in ("failed", "diverged", "running")
    )
    found = []
    if failed:
        found.append(f"{len(failed)} of {len(rows)} runs failed: {_first(failed)}.")
    if diverged:
        found.append(
            f"{len(diverged)} of {len(rows)} runs diverged: {_first(diverged)}. Means leave them out and "
            "flatter their methods."
        )
    if unfinished:
        found.append(
            f"{len(unfinished)} of {len(rows)} runs have not finished (still running, or killed): "
            f"{_first(unfinished)}. Their curves end early; means, tests and costs to a target leave them out."
        )
    return " ".join(found)


def _first(labels: list[str], most: int = 5) -> str:
    return "; ".join(labels[:most]) + (f"; and {len(labels) - most} more" if len(labels) > most else "")


def seeds_of(row: dict[str, Any]) -> str:
    """Seeds with a result, and what became of the other runs: ``2 of 4 (1 diverged, 1 unfinished)``."""
    if not without_result(row):
        return str(row["seeds"]) if row["seeds"] == row["runs"] else f"{row['seeds']} of {row['runs']}"
    return f"{row['seeds']} of {row['runs']} ({without_result(row)})"


def without_result(row: dict[str, Any]) -> str:
    """What became of a cell's runs without a result: ``1 diverged, 1 unfinished``; empty if there is none."""
    return ", ".join(f"{row[name]} {name}" for name in ("failed", "diverged", "unfinished") if row[name])


def _run_label(row: dict[str, Any]) -> str:
    return f"{cell_of(row).label}, seed {row['seed']}"


def supposed(results: Results) -> str:
    """A warning if some epsilon is for a supposed population, else empty."""
    found = {r["hypothetical_population"] for r in records(results.runs)} - {None}
    if not found:
        return ""
    return f"HYPOTHETICAL: some epsilons are for a supposed population ({', '.join(f'{n:g}' for n in sorted(found))})."


def accounted_again(results: Results) -> list[str]:
    """How each method's epsilon was put on common ground, or why it could not be; each once."""
    found: dict[str, list[str]] = {}
    for row in records(results.runs):
        if row["ground_remark"]:
            found.setdefault(row["ground_remark"], []).append(cell_of(row).label)
    return [f"{_listed(list(dict.fromkeys(cells)))}: {remark}." for remark, cells in found.items()]


def chosen_values(row: dict[str, Any]) -> str:
    """Tuned values of a run or trial: ``client.lr = 0.1``."""
    values = json.loads(row.get("chosen") or row.get("values") or "{}")
    return ", ".join(f"{key} = {value}" for key, value in values.items()) or text.MISSING
