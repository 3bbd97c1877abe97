"""The report of a comparison as a page: plain words first, then plots, tests, and how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedopt.comparison.figures import all_figures
from fedopt.comparison.ground import Ground, why_apart
from fedopt.comparison.results import Judging, Results, cell_of
from fedopt.comparison.words import (
    accounted_again,
    chosen_values,
    costs_in_words,
    records,
    seeds_of,
    shown_interval,
    supposed,
    trouble,
    verdicts,
)
from fedopt.report import text
from fedopt.report.figures import Figure
from fedopt.report.page import Card, Page, Section


@dataclass(frozen=True)
class Background:
    """What the page says besides the results.

    Args:
        title, question: heading and the line under it.
        command: how it was made.
        tuning: sentences on tuning; empty without.
        trials: table of trials, or None.
        code: hash of the code that computed.
    """

    title: str
    question: str = ""
    command: str = ""
    tuning: Sequence[str] = ()
    trials: Any = None
    code: str = ""


TITLES = {
    "privacy": "Utility and privacy",
    "learning": "Learning",
    "targets": "Cost to a target",
    "frontier": "Frontier",
    "fairness": "Fairness",
}


def comparison_page(results: Results, judging: Judging, background: Background) -> tuple[Page, list[Figure]]:
    """The page and all figures on it."""
    made = all_figures(results, judging.confidence)
    sections = [Section("words", "What can be said", [_words(results, judging)])]
    for name, title in TITLES.items():
        notes = _ground_notes(results) if name == "privacy" else []
        blocks: list[Figure | str] = [*made[name]]
        if notes and made[name]:
            blocks.append(text.bullet_list(notes))
        sections.append(Section(name, title, blocks))
    sections.append(Section("methods", "Methods", [_cells_table(results, judging)]))
    sections.append(Section("tests", "Tests against the baseline", _tests_table(results)))
    sections.append(Section("tuning", "Tuning", _tuning(background)))
    sections.append(Section("runs", "Runs", [_runs_table(results)]))
    sections.append(Section("background", "How it was made", [_background(results, background)]))
    page = Page(
        title=background.title,
        subtitle=background.question or "A comparison made by fedopt",
        banner=" ".join(filter(None, (trouble(results), supposed(results)))),
        cards=_cards(results),
        sections=sections,
    )
    return page, [figure for group in made.values() for figure in group]


def _words(results: Results, judging: Judging) -> str:
    return text.paragraphs(*verdicts(results, judging.confidence))


def _cards(results: Results) -> list[Card]:
    rows, runs = records(results.cells), records(results.runs)
    variants, seeds = {r["variant"] for r in rows}, {r["seed"] for r in runs}
    reused = sum(r["how"] == "reused" for r in runs)
    cards = [
        Card("Methods", text.number(len(variants)), f"{len(rows)} with their noise levels and bases"),
        Card("Runs", text.number(len(runs)), f"{len(seeds)} seeds, {reused} runs reused"),
    ]
    for base in dict.fromkeys(r["base"] for r in rows):
        known = [r for r in rows if r["base"] == base and r["mean"] is not None]
        if known:
            goal = runs[0]["goal"]
            best = (max if goal == "max" else min)(known, key=lambda r: r["mean"])
            remark = f"{cell_of(best).label}; highest mean, see the tests" if goal == "max" else cell_of(best).label
            cards.append(
                Card(f"Best mean {best['metric_name']}", text.metric(best["mean"], best["metric_name"]), remark)
            )
    return cards


def _ground_notes(results: Results) -> list[str]:
    claims = list(results.claims.values())
    grounds: list[Ground] = [claim.ground for claim in claims]
    notes = [*why_apart(grounds, [claim.trust for claim in claims]), *accounted_again(results)]
    if any(claim.ground.unit != claim.unit for claim in claims):
        notes.append(
            "Where every client holds one example, hiding a client and hiding an example are the same: such runs are "
            "shown with unit example beside example-level methods."
        )
    return notes


def _cells_table(results: Results, judging: Judging) -> str:
    names = (
        "method",
        "seeds",
        "mean",
        "spread",
        "interval",
        "worst tenth",
        "epsilon",
        "ground",
        "trust",
    )
    cost_names, costs = costs_in_words(results)
    rows = []
    for r, cost in zip(records(results.cells), costs, strict=True):
        interval = shown_interval(r)
        ground = text.MISSING if r["unit"] is None else f"{r['unit']}, {r['relation']}, delta {r['delta']:g}"
        values = (r["mean"], r["deviation"], interval, r["worst_decile"], r["epsilon"])
        rows.append([cell_of(r).label, seeds_of(r), *values, ground, r["trust"], *cost])
    name = next((r["metric_name"] for r in records(results.cells) if r["metric_name"]), "metric")
    note = (
        f"Metric: {name} at the last evaluation. Spread: standard deviation over seeds. Interval: "
        f"{judging.confidence:.0%} Student's t interval of the mean, cut where the metric cannot be. Tests compare "
        "means by pairs of equal seeds: overlapping intervals say nothing about them."
    )
    return text.paragraphs(note) + f'<div class="whole">{text.table((*names, *cost_names), rows, "Methods")}</div>'


def _tests_table(results: Results) -> list[str]:
    rows = [
        [
            cell_of(r).label,
            r["baseline"],
            *(text.number(r[name], 3) for name in ("difference", "low", "high", "p_value", "p_holm")),
            r["pairs"],
            r["verdict"],
        ]
        for r in records(results.tests)
    ]
    names = ("method", "baseline", "difference", "low", "high", "p", "p (Holm)", "pairs", "verdict")
    note = (
        "Low and high: the t interval of this difference alone. The verdict goes by the adjusted p (Holm), so an "
        "interval can leave out zero where the verdict is not separable."
    )
    made = text.table(names, rows, "Paired t tests against the baseline")
    return [text.paragraphs(note) + f'<div class="whole">{made}</div>'] if rows else []


def _tuning(background: Background) -> list[str]:
    if not background.tuning:
        return []
    blocks = [text.bullet_list(list(background.tuning))]
    if background.trials is not None and len(background.trials):
        rows = [
            [
                cell_of(r).label,
                r["trial"],
                chosen_values(r),
                r["metric"],
                r["epsilon"],
                "chosen" if r["is_chosen"] else "",
                r["epsilon_with_trials"],
                r["delta_with_trials"],
            ]
            for r in records(background.trials)
        ]
        names = ("method", "trial", "values", "metric on validation data", "epsilon", "", "with all trials", "at delta")
        blocks.append(text.table(names, rows, "Trials"))
    return blocks


def _runs_table(results: Results) -> str:
    names = (
        "run",
        "seed",
        "status",
        "how",
        "metric",
        "epsilon",
        "steps",
        "wall time",
        "tuned values",
        "directory",
        "error",
    )
    rows = [
        [
            cell_of(r).label,
            r["seed"],
            "unfinished" if r["status"] == "running" else r["status"],
            r["how"],
            r["metric"],
            r["epsilon"],
            r["steps"],
            text.duration(r["wall_s"]),
            chosen_values(r),
            r["directory"],
            r["error"],
        ]
        for r in records(results.runs)
    ]
    return text.table(names, rows, "Runs")


def _background(results: Results, background: Background) -> str:
    notes = []
    if background.command:
        notes.append(f"Command: {background.command}")
    if background.code:
        notes.append(f"Code that computed the runs: {background.code}. Every run directory holds its full scenario.")
    notes.append(
        "Every number of this page is in tables/ (CSV and Parquet, described in docs/compare.md), every plot in "
        "figures/ (SVG, PNG, PDF)."
    )
    if results.warnings:
        notes += [f"Warning of a run: {warning}." for warning in results.warnings[:20]]
    sources = text.paragraphs("Sources of the methods used:") + text.bullet_list(list(results.references))
    return text.bullet_list(notes) + (sources if results.references else "")
