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


def verdicts(results: Results, confidence: float) -> list[str]:
    """What is and what is not separable from noise, a sentence per group."""
    rows = records(results.tests)
    if not rows:
        return ["There is one method only, so nothing is tested."]
    found = []
    names = {"better": "better than", "worse": "worse than", "not separable": "not separable from"}
    for verdict, words in names.items():
        groups: dict[str, list[str]] = {}
        for row in rows:
            if row["verdict"] == verdict:
                groups.setdefault(row["baseline"], []).append(_difference(row))
        for baseline, methods in groups.items():
            verb = "is" if len(methods) == 1 else "are"
            found.append(f"{_listed(methods)} {verb} {words} {baseline}.")
    untested = [cell_of(row).label for row in rows if row["verdict"] == "untested"]
    if untested:
        found.append(
            f"{_listed(untested)} could not be tested: that takes at least two seeds shared with the baseline."
        )
    found.append(
        f"Paired t tests over shared seeds, adjusted by Holm's method over all {len(rows)} of them, at "
        f"{1 - confidence:.0%}. Seeds change the split, the devices, the batches and the noise, not the data set: "
        "the statements are about this data. Not separable does not mean equal; more seeds would narrow the intervals."
    )
    return found


def _difference(row: dict[str, Any]) -> str:
    name = cell_of(row).label
    if row["difference"] is None:
        return name
    return f"{name} (difference {row['difference']:+.3g}, interval {row['low']:+.3g} to {row['high']:+.3g})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def trouble(results: Results) -> str:
    """A banner if runs failed or diverged, else empty."""
    rows = records(results.runs)
    failed = [_run_label(r) for r in rows if r["status"] == "failed"]
    diverged = [_run_label(r) for r in rows if r["status"] == "diverged"]
    found = []
    if failed:
        found.append(f"{len(failed)} of {len(rows)} runs failed: {'; '.join(failed[:5])}.")
    if diverged:
        found.append(
            f"{len(diverged)} of {len(rows)} runs diverged: {'; '.join(diverged[:5])}. Means leave them out and "
            "flatter their methods."
        )
    return " ".join(found)


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
