"""Utility against epsilon, and learning curves; the same figures go to paper by matplotlib."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from fedopt.comparison.cells import ground_key
from fedopt.comparison.cost_figures import fairness_figures, frontier_figures, target_figures
from fedopt.comparison.drawing import (
    band,
    cells_of,
    colors,
    drawn_names,
    error_bars,
    figure_name,
    metric_axis,
    possible,
    titled,
)
from fedopt.comparison.ground import Ground
from fedopt.comparison.results import Results, cell_of
from fedopt.comparison.statistics import t_factor
from fedopt.comparison.words import records, without_result
from fedopt.report import figures
from fedopt.report.figures import Figure, View, axis, plain

CURVE_POINTS = 400
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
COSTS = (
    ("time_s", "virtual time", "virtual time (s)", ""),  # first where there is one: steps of two methods differ
    ("step", "server steps", "server step", ""),
    ("total_bytes", "bytes", "bytes sent, both ways", "~s"),
    ("queries", "evaluations", "objective evaluations", "~s"),
)
# Curves that end this many times apart are drawn on a logarithmic axis: on a linear one the short ones vanish.
FAR_APART = 20
ABOUT_THE_SAME = 1.25  # epsilons within this factor are one noise level, spent by different methods
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


# ---- utility against epsilon ---------------------------------------------------------------------------------------


def epsilon_figures(results: Results, base: str, confidence: float) -> list[Figure]:
    """One panel per ground: epsilons that mean different things never share an axis."""
    rows = [r for r in cells_of(results, base) if r["mean"] is not None]
    private = [r for r in rows if r["epsilon"] is not None]
    grounds = list(dict.fromkeys(map(ground_key, private)))
    plain_runs = [r for r in rows if r["unit"] is None]
    return [
        _epsilon_panel(
            [r for r in private if ground_key(r) == ground],
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
    ground = Ground(*ground_key(first)).label
    traces: list[dict[str, Any]] = []
    for variant in dict.fromkeys(r["variant"] for r in private):
        for trust in dict.fromkeys(r["trust"] for r in private if r["variant"] == variant):
            own = [r for r in private if r["variant"] == variant and r["trust"] == trust]
            traces += _epsilon_line(f"{variant} [{trust}]", own, color[variant], trust)
    epsilons = [r["epsilon"] for r in private]
    ends = _ends(epsilons)
    for row in plain_runs:
        name = row["variant"] if row["variant"] == "no privacy" else f"{row['variant']} [no privacy]"
        if row["low"] is not None:
            low, high = possible([row], [row["low"]] * 2), possible([row], [row["high"]] * 2)
            traces += band(name, ends, low, high, color[row["variant"]])
        flat = figures.line(name, ends, [row["mean"]] * 2, color[row["variant"]], legendgroup=name, mode="lines")
        flat["line"] = {**flat["line"], "dash": "longdashdot"}
        traces.append(flat)
    ticks = figures.log_ticks(epsilons)
    scale = {"type": "log", "tickvals": ticks} if ticks else {"range": plain(ends)} if ends[0] == 0 else {}
    shown = [*private, *plain_runs]
    return Figure(
        name=figure_name("utility-epsilon", base, number),
        title=titled("Utility against epsilon", base),
        alt=f"Lines with bands: metric against epsilon ({ground}) for {drawn_names(traces)}.",
        traces=traces,
        layout={
            "xaxis": axis(f"epsilon<br>({ground})", **scale),
            "yaxis": metric_axis(shown),
            "showlegend": True,
        },
        columns=("method", "trust", "epsilon", "mean", "low", "high", "seeds"),
        rows=[[cell_of(r).label, r["trust"], r["epsilon"], r["mean"], r["low"], r["high"], r["seeds"]] for r in shown],
        caption=f"Epsilon is for {ground}. Bands: {confidence:.0%} t intervals of the mean over seeds, cut where the "
        "metric cannot be. Line styles tell trust models apart; runs without privacy are drawn across.",
        wide=True,
        height=420,
    )


def _ends(epsilons: list[float]) -> list[float]:
    """From where to where runs without privacy are drawn: the epsilons there are, or, where all are about the same,
    from 0 to twice as much, so that the axis does not blow up differences nobody asked for.

    >>> _ends([1.0, 8.0]), _ends([16.0, 15.0])
    ([1.0, 8.0], [0, 32.0])
    """
    low, high = min(epsilons), max(epsilons)
    return [low, high] if high > ABOUT_THE_SAME * low else [0, 2 * high]


def _epsilon_line(name: str, own: list[dict[str, Any]], color: int, trust: str) -> list[dict[str, Any]]:
    own = sorted(own, key=lambda r: r["epsilon"])
    x, style = [r["epsilon"] for r in own], TRUSTS.index(trust) if trust in TRUSTS else len(TRUSTS)
    line = figures.line(name, x, [r["mean"] for r in own], color, mode="lines+markers", legendgroup=name)
    line["line"] = {**line["line"], "dash": DASHES[style]}
    line["marker"] = {**line["marker"], "symbol": SYMBOLS[style], "size": 8}
    known = [r for r in own if r["low"] is not None]
    if len(known) == 1 or len({r["epsilon"] for r in known}) == 1:
        return [line | {"error_y": error_bars(own) | {"color": figures.series(color)}}]
    if not known:
        return [line]
    low, high = (possible(known, [r[end] for r in known]) for end in ("low", "high"))
    return [*band(name, [r["epsilon"] for r in known], low, high, color), line]


# ---- learning curves -----------------------------------------------------------------------------------------------


def learning_figures(results: Results, base: str, confidence: float) -> list[Figure]:
    """The metric against steps, virtual time, bytes and queries: mean and band at the steps all seeds evaluated."""
    points = results.curves[results.curves["base"] == base]
    rows = cells_of(results, base)
    color, traces, x = colors(results), [], []
    judged = {(cell_of(r), r["seed"]) for r in records(results.runs) if r["metric"] is not None}
    shown = _shown_levels(rows)
    for row in rows:
        own = points[(points["variant"] == row["variant"])]
        own = own[own["level"].isna()] if row["level"] is None else own[own["level"] == row["level"]]
        cell = cell_of(row)
        seeds = [seed for of, seed in judged if of == cell]
        drawn = _mean_curve(own[own["seed"].isin(seeds)] if seeds else own, confidence)
        if drawn is None:
            continue
        name = cell.label.removeprefix(f"{base} / ") + ("" if seeds else f" ({without_result(row)})")
        visible = {} if row["level"] in shown else {"visible": "legendonly"}
        made = []
        if drawn["low"] is not None:
            low, high = possible(rows, drawn["low"]), possible(rows, drawn["high"])
            made += band(name, drawn["step"], low, high, color[row["variant"]])
        line = figures.line(name, drawn["step"], drawn["mean"], color[row["variant"]], legendgroup=name)
        line["line"] = {**line["line"], "dash": DASHES[_level_rank(row, rows) % len(DASHES)]}
        made.append(line)
        traces += [trace | visible for trace in made]
        x += [drawn] * len(made)
    if not traces:
        return []
    views = [_view(x, *cost) for cost in COSTS if any(np.any(drawn[cost[0]] > 0) for drawn in x)]
    if views[0].label == "server steps" and all(np.any(drawn["queries"] > 0) for drawn in x):
        views.insert(0, views.pop())  # a round is one step of some methods and two of others; values are values
    hidden = " Other noise levels are in the legend: choose them there." if any("visible" in t for t in traces) else ""
    return [
        Figure(
            name=figure_name("learning", base),
            title=titled("Learning curves", base),
            alt=f"Lines with bands: test metric over the run for {drawn_names(traces)}.",
            traces=traces,
            layout={"yaxis": metric_axis(rows), "showlegend": True},
            columns=("method", "mean", "low", "high", "seeds", "virtual time (s)", "bytes"),
            rows=[
                [cell_of(r).label, r["mean"], r["low"], r["high"], r["seeds"], r["time_s"], r["total_bytes"]]
                for r in rows
            ],
            caption=f"Mean over seeds with a result at the steps that all of them evaluated, with "
            f"{confidence:.0%} t intervals; time, bytes and evaluations are means at those steps.{hidden}",
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
    own = [_last_of_step(group) for _, group in points[points["metric"].notna()].groupby("seed", sort=True)]
    seeds = len(own)
    shared = reduce(np.intersect1d, [one["step"] for one in own]) if own else np.zeros(0)
    if len(shared) == 0:
        return None
    rows = [np.searchsorted(one["step"], shared) for one in own]
    metric = np.stack([one["metric"][kept] for one, kept in zip(own, rows, strict=True)], axis=1)
    chosen = figures.thin(metric.mean(axis=1), CURVE_POINTS)
    found: dict[str, Any] = {"step": shared[chosen], "mean": metric.mean(axis=1)[chosen]}
    for name in ("time_s", "total_bytes", "queries"):
        columns = [one[name][kept][chosen] for one, kept in zip(own, rows, strict=True)]
        found[name] = np.nan_to_num(np.stack(columns, axis=1)).mean(axis=1)
    found["low"] = found["high"] = None
    if seeds > 1:
        middle, spread = metric[chosen].mean(axis=1), metric[chosen].std(axis=1, ddof=1)
        half = t_factor(seeds, confidence) * spread / seeds**0.5
        found["low"], found["high"] = middle - half, middle + half
    return found


def _last_of_step(points: Any) -> dict[str, np.ndarray]:
    """Columns of one run by ascending step; of a step with several phases the last."""
    step = points["step"].to_numpy()
    _, backwards = np.unique(step[::-1], return_index=True)
    kept = len(step) - 1 - backwards
    names = ("metric", "time_s", "total_bytes", "queries")
    return {"step": step[kept]} | {n: points[n].to_numpy(dtype=float, na_value=np.nan)[kept] for n in names}


def _view(drawn: list[dict[str, Any]], column: str, label: str, title: str, tickformat: str) -> View:
    is_wide = bool(figures.log_ticks([float(d[column][-1]) for d in drawn], FAR_APART))
    ticks = figures.log_ticks([float(v) for d in drawn for v in d[column]]) if is_wide else ()
    one_each = figures.whole_ticks([int(v) for d in drawn for v in d[column]]) if column == "step" and not ticks else {}
    return View(label, title, tuple(plain(d[column]) for d in drawn), tickformat, ticks, **one_each)
