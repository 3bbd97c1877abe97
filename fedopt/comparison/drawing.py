"""What the plots of a comparison share: colours, bands, names, axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedopt.comparison.results import Results
from fedopt.comparison.words import records
from fedopt.report import figures
from fedopt.report.figures import axis, plain


def colors(results: Results) -> dict[str, int]:
    """Variant -> number of its colour, the same in every plot."""
    return {name: i for i, name in enumerate(dict.fromkeys(r["variant"] for r in records(results.cells)))}


def possible(rows: list[dict[str, Any]], ends: Any) -> Any:
    """Ends of intervals, cut to what the metric can be: accuracies lie in [0, 1]."""
    is_share = any("accuracy" in str(row["metric_name"]) for row in rows)
    return np.clip(np.asarray(ends, dtype=float), 0, 1) if is_share else np.asarray(ends, dtype=float)


def error_bars(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bars from the low to the high end of every row's interval, cut to what the metric can be; none without one."""
    known = [row["low"] is not None for row in rows]
    mean = np.array([row["mean"] for row in rows], dtype=float)
    low, high = (
        possible(rows, [r[end] if k else r["mean"] for r, k in zip(rows, known, strict=True)])
        for end in ("low", "high")
    )
    return {"type": "data", "symmetric": False, "array": plain(high - mean), "arrayminus": plain(mean - low)}


def band(name: str, x: Sequence[Any], low: Any, high: Any, color: int) -> list[dict[str, Any]]:
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


def titled(title: str, base: str) -> str:
    """Title of a plot of one base."""
    return f"{title}: {base}" if base else title


def figure_name(prefix: str, base: str, number: int = 0) -> str:
    """Identifier of a plot, unique on the page, fit for a file name."""
    text = "".join(c if c.isalnum() and c.isascii() else "-" for c in f"{prefix}-{base}".strip("-").lower())
    return f"{text}-{number}" if number else text


def drawn_names(traces: list[dict[str, Any]]) -> str:
    """Names in the legend."""
    return ", ".join(trace["name"] for trace in traces if trace.get("showlegend", True))


def metric_axis(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Axis of the compared metric."""
    name = str(next((r["metric_name"] for r in rows if r["metric_name"]), "metric"))
    return axis(name, tickformat=".1%" if "accuracy" in name else "")


def cells_of(results: Results, base: str) -> list[dict[str, Any]]:
    """Rows of the cells table of one base."""
    return [row for row in records(results.cells) if row["base"] == base]
