"""The plots of a comparison, in the form of ``fedopt.report.figures``; the same figures go to paper by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedopt.comparison.results import Results, cell_of
from fedopt.comparison.statistics import t_interval
from fedopt.comparison.words import records
from fedopt.report import figures
from fedopt.report.figures import Figure, View, axis, plain

CURVE_POINTS = 400
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
COSTS = (("step", "server steps", "server step"), ("time_s", "virtual time", "virtual time (s)"))
TARGET_COSTS = (
    "time_to_target_s",
    "bytes_to_target",
    "queries_to_target",
    "epsilon_to_target",
    "unit",
    "relation",
    "trust",
)
TRUSTS = ("central", "distributed", "shuffle", "local")


def all_figures(results: Results, confidence: float) -> dict[str, list[Figure]]:
    """Figures by section of the report; empty sections are left out."""
    made: dict[str, list[Figure]] = {"privacy": [], "learning": [], "targets": [], "frontier": [], "fairness": []}
    for base in dict.fromkeys(row["base"] for row in records(results.cells)):
        made["privacy"] += epsilon_figures(results, base, confidence)
        made["learning"] += learning_figures(results, base, confidence)
        made["targets"] += target_figures(results, base)
        made["frontier"] += frontier_figures(results, base)
        made["fairness"] += fairness_figures(results, base)
    return made


def colors(results: Results) -> dict[str, int]:
    """Variant -> number of its colour, the same in every plot."""
    return {name: i for i, name in enumerate(dict.fromkeys(r["variant"] for r in records(results.cells)))}


def band(name: str, x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], color: int) -> list[dict[str, Any]]:
    """Two traces that fill the area between ``low`` and ``high``, shown and hidden with the line ``name``."""
    shared: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": name,
        "name": name,
    }
    fill = {"fill": "tonexty", "fillcolor": f"{figures.series(color)}/0.18"}
    return [{**shared, "x": plain(x), "y": plain(low)}, {**shared, "x": plain(x), "y": plain(high), **fill}]


def _titled(title: str, base: str) -> str:
    return f"{title}: {base}" if base else title


def _name(prefix: str, base: str, number: int = 0) -> str:
    text = "".join(c if c.isalnum() and c.isascii() else "-" for c in f"{prefix}-{base}".strip("-").lower())
    return f"{text}-{number}" if number else text


def _metric_axis(rows: list[dict[str, Any]]) -> dict[str, Any]:
    name = str(next((r["metric_name"] for r in rows if r["metric_name"]), "metric"))
    return axis(name, tickformat=".1%" if "accuracy" in name else "")


def _of(results: Results, base: str) -> list[dict[str, Any]]:
    return [row for row in records(results.cells) if row["base"] == base]


# ---- utility against epsilon ---------------------------------------------------------------------------------------


def epsilon_figures(results: Results, base: str, confidence: float) -> list[Figure]:
    """One panel per ground: epsilons that mean different things never share an axis."""
    rows = [r for r in _of(results, base) if r["mean"] is not None]
    private = [r for r in rows if r["epsilon"] is not None]
    grounds = list(dict.fromkeys((r["unit"], r["relation"], r["delta"]) for r in private))
    plain_runs = [r for r in rows if r["unit"] is None]
    return [
        _epsilon_panel(
            [r for r in private if (r["unit"], r["relation"], r["delta"]) == ground],
            plain_runs,
            base,
            number,
            colors(results),
            confidence,
        )
        for number, ground in enumerate(grounds)
    ]


def _epsilon_panel(
    private: list[dict[str, Any]],
    plain_runs: list[dict[str, Any]],
    base: str,
    number: int,
    color: dict[str, int],
    confidence: float,
) -> Figure:
    first = private[0]
    ground = f"unit {first['unit']}, {first['relation']}, delta {first['delta']:g}"
    traces: list[dict[str, Any]] = []
    for variant in dict.fromkeys(r["variant"] for r in private):
        for trust in dict.fromkeys(r["trust"] for r in private if r["variant"] == variant):
            own = [r for r in private if r["variant"] == variant and r["trust"] == trust]
            traces += _epsilon_line(f"{variant} [{trust}]", own, color[variant], trust)
    epsilons = [r["epsilon"] for r in private]
    ends = [min(epsilons), max(epsilons)] if min(epsilons) < max(epsilons) else [0.8 * epsilons[0], 1.2 * epsilons[0]]
    for row in plain_runs:
        name = f"{row['variant']} [no privacy]"
        if row["low"] is not None:
            traces += band(name, ends, [row["low"]] * 2, [row["high"]] * 2, color[row["variant"]])
        flat = figures.line(name, ends, [row["mean"]] * 2, color[row["variant"]], legendgroup=name, mode="lines")
        flat["line"] = {**flat["line"], "dash": "longdashdot"}
        traces.append(flat)
    logarithmic = min(epsilons) > 0 and max(epsilons) / min(epsilons) >= 5
    shown = [*private, *plain_runs]
    return Figure(
        name=_name("utility-epsilon", base, number),
        title=_titled("Utility against epsilon", base),
        alt=f"Lines with bands: metric against epsilon ({ground}) for {', '.join(t['name'] for t in traces if 'fill' not in t)}.",
        traces=traces,
        layout={
            "xaxis": axis(f"epsilon ({ground})", type="log" if logarithmic else "linear"),
            "yaxis": _metric_axis(shown),
            "showlegend": True,
        },
        columns=("method", "trust", "epsilon", "mean", "low", "high", "seeds"),
        rows=[[cell_of(r).label, r["trust"], r["epsilon"], r["mean"], r["low"], r["high"], r["seeds"]] for r in shown],
        caption=f"Epsilon is for {ground}. Bands: {confidence:.0%} t intervals of the mean over seeds. Line styles tell "
        "trust models apart; runs without privacy are drawn across.",
        wide=True,
        height=420,
    )


def _epsilon_line(name: str, own: list[dict[str, Any]], color: int, trust: str) -> list[dict[str, Any]]:
    own = sorted(own, key=lambda r: r["epsilon"])
    x, style = [r["epsilon"] for r in own], TRUSTS.index(trust) if trust in TRUSTS else len(TRUSTS)
    line = figures.line(name, x, [r["mean"] for r in own], color, mode="lines+markers", legendgroup=name)
    line["line"] = {**line["line"], "dash": DASHES[style]}
    line["marker"] = {**line["marker"], "symbol": SYMBOLS[style], "size": 8}
    known = [r for r in own if r["low"] is not None]
    if len(known) == 1 or len({r["epsilon"] for r in known}) == 1:
        half = [0 if r["low"] is None else r["mean"] - r["low"] for r in own]
        return [line | {"error_y": {"type": "data", "array": plain(half), "color": figures.series(color)}}]
    if not known:
        return [line]
    spread = band(name, [r["epsilon"] for r in known], [r["low"] for r in known], [r["high"] for r in known], color)
    return [*spread, line]


# ---- learning curves -----------------------------------------------------------------------------------------------


def learning_figures(results: Results, base: str, confidence: float) -> list[Figure]:
    """The metric against steps, virtual time, bytes and queries: mean and band at the steps all seeds evaluated."""
    points = results.curves[results.curves["base"] == base]
    rows = _of(results, base)
    color, traces, x = colors(results), [], []
    shown = _shown_levels(rows)
    for row in rows:
        own = points[(points["variant"] == row["variant"])]
        own = own[own["level"].isna()] if row["level"] is None else own[own["level"] == row["level"]]
        drawn = _mean_curve(own, confidence)
        if drawn is None:
            continue
        cell = cell_of(row)
        name = cell.label.removeprefix(f"{base} / ")
        visible = {} if row["level"] in shown else {"visible": "legendonly"}
        made = []
        if drawn["low"] is not None:
            made += band(name, drawn["step"], drawn["low"], drawn["high"], color[row["variant"]])
        line = figures.line(name, drawn["step"], drawn["mean"], color[row["variant"]], legendgroup=name)
        line["line"] = {**line["line"], "dash": DASHES[_level_rank(row, rows) % len(DASHES)]}
        made.append(line)
        traces += [trace | visible for trace in made]
        x += [drawn] * len(made)
    if not traces:
        return []
    views = [_view(x, *cost) for cost in COSTS]
    views.append(_view(x, "total_bytes", "bytes", "bytes sent, both ways", "~s"))
    if any(np.any(d["queries"] > 0) for d in x):
        views.append(_view(x, "queries", "evaluations", "objective evaluations", "~s"))
    hidden = " Other noise levels are in the legend: choose them there." if any("visible" in t for t in traces) else ""
    return [
        Figure(
            name=_name("learning", base),
            title=_titled("Learning curves", base),
            alt=f"Lines with bands: test metric over the run for {', '.join(t['name'] for t in traces if 'fill' not in t)}.",
            traces=traces,
            layout={"yaxis": _metric_axis(rows), "showlegend": True},
            columns=("method", "mean", "low", "high", "seeds", "virtual time (s)", "bytes"),
            rows=[
                [cell_of(r).label, r["mean"], r["low"], r["high"], r["seeds"], r["time_s"], r["total_bytes"]]
                for r in rows
            ],
            caption=f"Mean over seeds at the steps that all of them evaluated, with {confidence:.0%} t intervals; time, "
            f"bytes and evaluations are means at those steps.{hidden}",
            views=tuple(views),
            wide=True,
            height=420,
        )
    ]


def _shown_levels(rows: list[dict[str, Any]]) -> set[float | None]:
    """The middle level is drawn first; all of them would be a thicket."""
    levels = sorted({r["level"] for r in rows if r["level"] is not None})
    return {None, levels[len(levels) // 2]} if levels else {None}


def _level_rank(row: dict[str, Any], rows: list[dict[str, Any]]) -> int:
    levels = sorted({r["level"] for r in rows if r["level"] is not None})
    return levels.index(row["level"]) if row["level"] is not None else 0


def _mean_curve(points: Any, confidence: float) -> dict[str, Any] | None:
    """Means over seeds per step, thinned; None without points. The grid is the steps every seed evaluated."""
    seeds = points["seed"].nunique()
    if seeds == 0:
        return None
    names = ["time_s", "total_bytes", "queries", "metric"]
    table = points.pivot_table(index="step", columns="seed", values=names, aggfunc="last", dropna=False)
    metric = table["metric"].to_numpy(dtype=float)
    kept = np.isfinite(metric).all(axis=1)
    if not kept.any():
        return None
    table, metric = table[kept], metric[kept]
    chosen = figures.thin(metric.mean(axis=1), CURVE_POINTS)
    found: dict[str, Any] = {"step": table.index.to_numpy()[chosen], "mean": metric.mean(axis=1)[chosen]}
    for name in names[:3]:
        column = table[name].to_numpy(dtype=float) if name in table else np.zeros_like(metric)
        found[name] = np.nan_to_num(column).mean(axis=1)[chosen]
    found["low"] = found["high"] = None
    if seeds > 1:
        intervals = [t_interval(row, confidence) for row in metric[chosen]]
        found["low"], found["high"] = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    return found


def _view(drawn: list[dict[str, Any]], column: str, label: str, title: str, tickformat: str = "") -> View:
    return View(label, title, tuple(plain(d[column]) for d in drawn), tickformat)


# ---- costs to a target ---------------------------------------------------------------------------------------------


def target_figures(results: Results, base: str) -> list[Figure]:
    """Time, bytes and epsilon until the target was first reached."""
    rows = [r for r in _of(results, base) if r["time_to_target_s"] is not None]
    if not rows:
        return []
    found = records(results.runs)
    target = next(r["target"] for r in found if r["base"] == base and r["target"] is not None)
    goal = next(r["goal"] for r in found if r["base"] == base)
    words = f"{rows[0]['metric_name']} {'at least' if goal == 'max' else 'at most'} {target:.4g}"
    labels = [cell_of(r).label.removeprefix(f"{base} / ") for r in rows]
    choices = [("time_to_target_s", "virtual time", "virtual time to the target (s)", "")]
    choices.append(("bytes_to_target", "bytes", "bytes to the target", "~s"))
    if any(r["queries_to_target"] for r in rows):
        choices.append(("queries_to_target", "evaluations", "objective evaluations to the target", "~s"))
    if any(r["epsilon_to_target"] is not None for r in rows):
        choices.append(("epsilon_to_target", "epsilon", "epsilon spent until the target (each on its own ground)", ""))
    bars = figures.bars("cost", [r["time_to_target_s"] for r in rows], labels, orientation="h")
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
        [cell_of(r).label, f"{r['reached']} of {r['runs']}", *(r[c] for c in TARGET_COSTS)] for r in _of(results, base)
    ]
    return [
        Figure(
            name=_name("target", base),
            title=_titled("Cost to the target", base),
            alt=f"Bars: cost until {words} was first reached, for {', '.join(labels)}.",
            traces=[bars],
            layout={
                "yaxis": {"autorange": "reversed", "automargin": True},
                "xaxis": axis(choices[0][2]),
                "showlegend": False,
            },
            columns=columns,
            rows=table,
            caption=f"Mean over seeds until {words} was first reached; a method with a seed that never reached it has no "
            "bar. Reading the test metric to stop is not paid for in epsilon.",
            views=tuple(View(label, title, (plain([r[c] for r in rows]),), form) for c, label, title, form in choices),
            wide=True,
            height=140 + 34 * len(rows),
        )
    ]


# ---- frontier ------------------------------------------------------------------------------------------------------


def frontier_figures(results: Results, base: str) -> list[Figure]:
    """Utility against each cost, the methods on the frontier filled."""
    rows = [r for r in _of(results, base) if r["mean"] is not None]
    if len(rows) < 2:
        return []
    color, traces = colors(results), []
    for row in rows:
        name = cell_of(row).label.removeprefix(f"{base} / ")
        symbol = "circle" if row["on_frontier"] else "circle-open"
        trace = figures.line(name, [row["time_s"]], [row["mean"]], color[row["variant"]], mode="markers")
        trace["marker"] = {**trace["marker"], "size": 12, "symbol": symbol, "line": {"width": 2}}
        if row["low"] is not None:
            half = [row["mean"] - row["low"]]
            trace["error_y"] = {"type": "data", "array": plain(half), "color": figures.series(color[row["variant"]])}
        traces.append(trace)
    views = [View("virtual time", "virtual time (s)", tuple(plain([r["time_s"]]) for r in rows))]
    views.append(View("bytes", "bytes sent, both ways", tuple(plain([r["total_bytes"]]) for r in rows), "~s"))
    grounds = {(r["unit"], r["relation"], r["delta"]) for r in rows if r["epsilon"] is not None}
    if len(grounds) == 1:
        unit, relation, delta = next(iter(grounds))
        title = f"epsilon (unit {unit}, {relation}, delta {delta:g})"
        views.append(View("epsilon", title, tuple(plain([_number(r["epsilon"])]) for r in rows)))
    best = [cell_of(r).label for r in rows if r["on_frontier"]]
    return [
        Figure(
            name=_name("frontier", base),
            title=_titled("Frontier over utility, epsilon, time and bytes", base),
            alt=f"Points: mean metric against cost. On the frontier: {', '.join(best)}.",
            traces=traces,
            layout={"yaxis": _metric_axis(rows), "showlegend": True},
            columns=("method", "on the frontier", "mean", "epsilon", "trust", "virtual time (s)", "bytes"),
            rows=[
                [
                    cell_of(r).label,
                    "yes" if r["on_frontier"] else "no",
                    r["mean"],
                    r["epsilon"],
                    r["trust"],
                    r["time_s"],
                    r["total_bytes"],
                ]
                for r in rows
            ],
            caption="Filled: no other method on the same ground is at least as good in mean metric, epsilon, virtual time "
            "and bytes and better in one. No privacy counts as infinite epsilon; trust is not a criterion.",
            views=tuple(views),
            wide=True,
            height=420,
        )
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# ---- fairness ------------------------------------------------------------------------------------------------------


def fairness_figures(results: Results, base: str) -> list[Figure]:
    """The worst tenth of the clients beside the mean."""
    rows = [r for r in _of(results, base) if r["worst_decile"] is not None and r["mean"] is not None]
    if not rows:
        return []
    labels = [cell_of(r).label.removeprefix(f"{base} / ") for r in rows]
    traces = [
        figures.bars("all test examples", [r["mean"] for r in rows], labels, 0, orientation="h"),
        figures.bars("worst tenth of the clients", [r["worst_decile"] for r in rows], labels, 1, orientation="h"),
    ]
    x = _metric_axis(rows)
    return [
        Figure(
            name=_name("fairness", base),
            title=_titled("Per-client fairness", base),
            alt="Bars: mean metric and metric of the worst tenth of the clients, for " + ", ".join(labels) + ".",
            traces=traces,
            layout={"xaxis": x, "yaxis": {"autorange": "reversed", "automargin": True}, "barmode": "group"},
            columns=("method", "mean", "worst tenth of the clients", "gap"),
            rows=[[cell_of(r).label, r["mean"], r["worst_decile"], r["mean"] - r["worst_decile"]] for r in rows],
            caption="The final model on every client's own test share (or own examples, where it has none): mean over the "
            "worst tenth of the clients, then over seeds. Simulator only: a deployment cannot see it.",
            wide=True,
            height=160 + 44 * len(rows),
        )
    ]
