"""Plots as plain dictionaries in the form Plotly's script reads, with the table and the words that go with them.

Colours are names of CSS variables (``var(--series-1)``), resolved in the browser, so that one figure serves light,
dark and print. No Plotly objects are built: making a report takes milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

MAX_POINTS = 2000
MAX_TABLE_ROWS = 100
WHOLE_TICKS = 8  # the plots have at most nine ticks

Numbers = Sequence[float | None] | np.ndarray


@dataclass(frozen=True)
class View:
    """One choice of horizontal axis: a label, the axis title, and x for every trace.

    Args:
        ticks: of a logarithmic axis; empty for a linear one.
        dtick: distance of the ticks of a linear axis; 0 leaves it to the plot.
    """

    label: str
    title: str
    x: tuple[list[Any], ...]
    tickformat: str = ""
    ticks: tuple[float, ...] = ()
    dtick: float = 0


@dataclass(frozen=True)
class Figure:
    """One plot.

    Args:
        name: identifier, unique on the page.
        title: heading.
        alt: what the plot shows, in words, for those who cannot see it.
        traces: Plotly traces.
        layout: Plotly layout, merged over the page's.
        columns, rows: the same numbers as a table.
        caption: what to know when reading it.
        views: choices of horizontal axis; the first is shown first.
        wide: takes the full width of the page.
        height: CSS pixels.
    """

    name: str
    title: str
    alt: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    rows: Sequence[Sequence[Any]] = ()
    caption: str = ""
    views: tuple[View, ...] = ()
    wide: bool = False
    height: int = 340

    def spec(self) -> dict[str, Any]:
        """What the page's script reads."""
        views = [asdict(view) for view in self.views]
        return {"traces": self.traces, "layout": self.layout, "views": views}


def series(index: int) -> str:
    """Colour of the i-th series, from 0."""
    return f"var(--series-{index % 8 + 1})"


def axis(title: str, **more: Any) -> dict[str, Any]:
    """A Plotly axis with a title."""
    return {"title": {"text": title}, **more}


def whole_ticks(values: Sequence[float | None]) -> dict[str, Any]:
    """Ticks of an axis of counts: one each where there are few (else plots put some between), or nothing.

    >>> whole_ticks([1, 2, 3]), whole_ticks([5.0]), whole_ticks([0, 100]), whole_ticks([])
    ({'dtick': 1}, {'dtick': 1}, {}, {})
    """
    known = [v for v in values if v is not None and math.isfinite(v)]
    return {"dtick": 1} if known and max(known) - min(known) <= WHOLE_TICKS else {}


def metric_axis(title: str, values: Sequence[float], is_percent: bool) -> dict[str, Any]:
    """Axis of a metric; shares that are all equal get a range within 0 and 1, where plots would take -1 to 1.

    >>> metric_axis("accuracy", [0.02, 0.02], True)["range"], "range" in metric_axis("accuracy", [0.1, 0.2], True)
    ([0.0, 0.07], False)
    """
    if not is_percent:
        return axis(title)
    low, high = min(values), max(values)
    level = {"range": plain([max(0.0, low - 0.05), min(1.0, high + 0.05)])} if low == high else {}
    return axis(title, tickformat=".0%", **level)


def line(name: str, x: Any, y: Any, color: int = 0, **more: Any) -> dict[str, Any]:
    """A line; with markers if there are few points."""
    mode = "lines+markers" if len(y) <= 60 else "lines"
    style = {"line": {"color": series(color), "width": 2}, "marker": {"color": series(color), "size": 5}}
    return {"type": "scatter", "name": name, "x": plain(x), "y": plain(y), "mode": mode, **style, **more}


def bars(name: str, x: Any, y: Any, color: int = 0, **more: Any) -> dict[str, Any]:
    """Bars."""
    marker = {"color": series(color)}
    return {"type": "bar", "name": name, "x": plain(x), "y": plain(y), "marker": marker, **more}


def plain(values: Any) -> list[Any]:
    """A list JSON can hold: NaN and infinities become gaps, floats lose digits nobody sees."""
    found: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [_plain_value(value) for value in found]


def _plain_value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def log_ticks(values: Sequence[float | None], ratio: float = 5) -> tuple[float, ...]:
    """Ticks of a logarithmic axis where the positive values span more than ``ratio``, else nothing (a linear axis).

    >>> log_ticks([0.0, 1.0, 4.0, 16.0]), log_ticks([1.0, 2.0]), log_ticks([90.0, 2e6])
    ((1.0, 2.0, 5.0, 10.0, 20.0), (), (100.0, 1000.0, 10000.0, 100000.0, 1000000.0))
    """
    positive = [v for v in values if v is not None and v > 0 and math.isfinite(v)]
    if not positive or max(positive) < ratio * min(positive):
        return ()
    low, high = min(positive), max(positive)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 100 * low else (1,)
    ladder = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return tuple(tick for tick in ladder if low / 1.3 <= tick <= high * 1.3)


def thin(values: Numbers, limit: int = MAX_POINTS) -> np.ndarray:
    """Positions of at most ``limit`` points that keep the shape of a curve.

    Every bucket of neighbours keeps its lowest and highest point, so peaks survive; first and last stay too. Missing
    and infinite points are dropped.

    >>> thin([1.0, None, 3.0]).tolist()
    [0, 2]
    """
    y = np.array([np.nan if v is None else v for v in values], dtype=float)
    kept = np.flatnonzero(np.isfinite(y))
    if len(kept) <= limit:
        return kept
    chosen = {int(kept[0]), int(kept[-1])}
    for bucket in np.array_split(kept, max(1, limit // 2 - 1)):
        chosen |= {int(bucket[y[bucket].argmin()]), int(bucket[y[bucket].argmax()])}
    return np.array(sorted(chosen))


def evenly(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` positions of ``count``, spread evenly, first and last among them.

    >>> evenly(10, 4).tolist(), evenly(3, 100).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.arange(count) if count <= limit else np.unique(np.linspace(0, count - 1, limit).round().astype(int))


def table_rows(columns: Mapping[str, Sequence[Any]], limit: int = MAX_TABLE_ROWS) -> list[list[Any]]:
    """Rows of a table from columns, thinned evenly."""
    values = list(columns.values())
    return [[column[i] for column in values] for i in evenly(len(values[0]) if values else 0, limit).tolist()]


def histogram(values: np.ndarray, limit: int = 40) -> tuple[list[str], list[int]]:
    """Counts of non-negative integers, one bar each, or in equal ranges when there are more than ``limit``.

    >>> histogram(np.array([0, 0, 2]))
    (['0', '1', '2'], [2, 0, 1])
    """
    if len(values) == 0:
        return [], []
    low, high = int(values.min()), int(values.max())
    width = (high - low) // limit + 1
    counts = np.bincount((values.astype(int) - low) // width)
    starts = [low + i * width for i in range(len(counts))]
    return [str(s) if width == 1 else f"{s}–{s + width - 1}" for s in starts], counts.tolist()
