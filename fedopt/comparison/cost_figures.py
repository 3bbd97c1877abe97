"""Cost to a target, the frontier over all criteria, and per-client fairness."""

from __future__ import annotations

import math
from typing import Any

from fedopt.comparison.cells import frontier_costs, ground_key
from fedopt.comparison.drawing import cells_of, colors, error_bars, figure_name, metric_axis, titled
from fedopt.comparison.ground import Ground
from fedopt.comparison.results import Results, cell_of
from fedopt.comparison.words import records
from fedopt.report import figures
from fedopt.report.figures import Figure, View, axis, log_ticks, plain

REVERSED = {"autorange": "reversed", "automargin": True, "dtick": 1}
TARGET_VIEWS = (
    ("time_to_target_s", "virtual time", "virtual time to the target (s)", ""),
    ("bytes_to_target", "bytes", "bytes to the target", "~s"),
    ("queries_to_target", "evaluations", "objective evaluations to the target", "~s"),
    ("epsilon_to_target", "epsilon", "epsilon spent until the target (each on its own ground)", ""),
)
TARGET_COSTS = (*(column for column, *_ in TARGET_VIEWS), "unit", "relation", "trust")

# ---- costs to a target ---------------------------------------------------------------------------------------------


def target_figures(results: Results, base: str) -> list[Figure]:
    """Time, bytes and epsilon until the target was first reached."""
    rows = [r for r in cells_of(results, base) if r["time_to_target_s"] is not None]
    if not rows:
        return []
    found = records(results.runs)
    target = next(r["target"] for r in found if r["base"] == base and r["target"] is not None)
    goal = next(r["goal"] for r in found if r["base"] == base)
    words = f"{rows[0]['metric_name']} {'at least' if goal == 'max' else 'at most'} {target:.4g}"
    labels = [cell_of(r).label.removeprefix(f"{base} / ") for r in rows]
    choices = [
        (column, label, title, form) for column, label, title, form in TARGET_VIEWS if any(r[column] for r in rows)
    ]
    bars = figures.bars("cost", [r[choices[0][0]] for r in rows], labels, orientation="h")
    columns = (
        "method",
        "runs that reached it",
        "time (s)",
        "bytes",
        "evaluations",
        "epsilon",
        "unit",
        "relation",
        "trust",
    )
    table = [
        [cell_of(r).label, f"{r['reached']} of {r['runs'] - r['unfinished']}", *(r[c] for c in TARGET_COSTS)]
        for r in cells_of(results, base)
    ]
    return [
        Figure(
            name=figure_name("target", base),
            title=titled("Cost to the target", base),
            alt=f"Bars: cost until {words} was first reached, for {', '.join(labels)}.",
            traces=[bars],
            layout={
                "yaxis": {"autorange": "reversed", "automargin": True},
                "xaxis": axis(choices[0][2]),
                "showlegend": False,
            },
            columns=columns,
            rows=table,
            caption=f"Median over seeds until {words} was first reached at an evaluation, a seed that never reached it "
            "counted as infinite: no bar where half of them or more did not. Reading the test metric to stop is not "
            "paid for in epsilon.",
            views=tuple(View(label, title, (plain([r[c] for r in rows]),), form) for c, label, title, form in choices),
            wide=True,
            height=140 + 34 * len(rows),
        )
    ]


# ---- frontier ------------------------------------------------------------------------------------------------------


def frontier_figures(results: Results, base: str) -> list[Figure]:
    """Utility against each cost, the methods on the frontier filled."""
    rows = [r for r in cells_of(results, base) if r["mean"] is not None]
    if len(rows) < 2:
        return []
    groups = [[r for r in rows if r["variant"] == name] for name in dict.fromkeys(r["variant"] for r in rows)]
    traces = [_points(group, base, colors(results)[group[0]["variant"]]) for group in groups]
    views = []
    grounds = {ground_key(r) for r in rows if r["epsilon"] is not None}
    if len(grounds) == 1:
        views.append(_across(groups, "epsilon", "epsilon", f"epsilon<br>({Ground(*next(iter(grounds))).label})"))
    if any(r["time_s"] for r in rows):
        views.append(_across(groups, "time_s", "virtual time", "virtual time (s)"))
    views.append(_across(groups, "total_bytes", "bytes", "bytes sent, both ways", "~s"))
    by_queries = "queries" in frontier_costs(rows)
    if by_queries:
        views.append(_across(groups, "queries", "evaluations", "objective evaluations", "~s"))
    criteria = "virtual time, bytes and evaluations" if by_queries else "virtual time and bytes"
    best = [cell_of(r).label for r in rows if r["on_frontier"]]
    return [
        Figure(
            name=figure_name("frontier", base),
            title=titled(f"Frontier over utility, epsilon, {criteria.removeprefix('virtual ')}", base),
            alt=f"Points: mean metric against cost. On the frontier: {', '.join(best)}.",
            traces=traces,
            layout={"yaxis": metric_axis(rows), "showlegend": True},
            columns=(
                "method",
                "on the frontier",
                "mean",
                "epsilon",
                "trust",
                "virtual time (s)",
                "bytes",
                "evaluations",
            ),
            rows=[
                [
                    cell_of(r).label,
                    "yes" if r["on_frontier"] else "no",
                    r["mean"],
                    r["epsilon"],
                    r["trust"],
                    r["time_s"],
                    r["total_bytes"],
                    r["queries"],
                ]
                for r in rows
            ],
            caption="Filled: no other method on the same ground is at least as good in mean metric, epsilon, "
            f"{criteria} and better in one; means are compared as they are, so neighbours may not be separable. No "
            "privacy counts as infinite epsilon (not on the epsilon axis); trust is not a criterion. "
            "Bars: t intervals, cut where the metric cannot be.",
            views=tuple(views),
            wide=True,
            height=420,
        )
    ]


def _points(group: list[dict[str, Any]], base: str, color: int) -> dict[str, Any]:
    """The noise levels of one method as points with their names to hover over."""
    trace = figures.line(group[0]["variant"], [r["time_s"] for r in group], [r["mean"] for r in group], color)
    symbols = ["circle" if r["on_frontier"] else "circle-open" for r in group]
    return trace | {
        "mode": "markers",
        "marker": {**trace["marker"], "size": 11, "symbol": symbols, "line": {"width": 2}},
        "text": [cell_of(r).label.removeprefix(f"{base} / ") for r in group],
        "hovertemplate": "%{text}<br>%{x}, %{y}<extra></extra>",
        "error_y": error_bars(group) | {"color": figures.series(color), "thickness": 1},
    }


def _across(groups: list[list[dict[str, Any]]], column: str, label: str, title: str, tickformat: str = "") -> View:
    ticks = log_ticks([r[column] for group in groups for r in group])
    x = tuple(plain([math.nan if r[column] is None else r[column] for r in group]) for group in groups)
    return View(label, title, x, tickformat, ticks)


# ---- fairness ------------------------------------------------------------------------------------------------------


def fairness_figures(results: Results, base: str) -> list[Figure]:
    """The worst tenth of the clients beside the mean."""
    rows = [r for r in cells_of(results, base) if r["worst_decile"] is not None and r["mean"] is not None]
    if not rows:
        return []
    labels = [cell_of(r).label.removeprefix(f"{base} / ") for r in rows]
    traces = [
        figures.bars("all test examples", [r["mean"] for r in rows], labels, 0, orientation="h"),
        figures.bars("worst tenth of the clients", [r["worst_decile"] for r in rows], labels, 1, orientation="h"),
    ]
    x = metric_axis(rows)
    return [
        Figure(
            name=figure_name("fairness", base),
            title=titled("Per-client fairness", base),
            alt="Bars: mean metric and metric of the worst tenth of the clients, for " + ", ".join(labels) + ".",
            traces=traces,
            layout={"xaxis": x, "yaxis": REVERSED, "barmode": "group"},
            columns=("method", "mean", "worst tenth of the clients", "gap"),
            rows=[[cell_of(r).label, r["mean"], r["worst_decile"], r["mean"] - r["worst_decile"]] for r in rows],
            caption="The final model on every client's own test share (or own examples, where it has none): mean over "
            "the worst tenth of the clients, then over seeds. Simulator only: a deployment cannot see it.",
            wide=True,
            height=160 + 44 * len(rows),
        )
    ]
