"""Figures for papers: the plots of the page drawn by matplotlib as SVG, PNG and PDF."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from fedopt.report.figures import Figure

FORMATS = ("svg", "png", "pdf")
# The light palette of report.css.
PALETTE = ("#0068b5", "#c2410c", "#0a7d5a", "#a1268c", "#7a5c00", "#5b46c9", "#a80f2e", "#4b5866")
_DASHES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 1.5, 3)),
}
_MARKERS = {
    "circle": "o",
    "circle-open": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "cross": "P",
    "x": "X",
    "star": "*",
}


def draw(figures: Sequence[Figure], folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write every figure, and every choice of its horizontal axis, as files.

    Args:
        figures: of the page.
        folder: created.
        formats: file endings matplotlib can write.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    # Letters stay letters: files are a third as large, and can be searched and edited.
    with matplotlib.rc_context({"svg.hashsalt": "fedopt", "svg.fonttype": "none"}):
        for figure in figures:
            for number, stem in enumerate(stems(figure)):
                made = as_matplotlib(figure, number)
                made.draw_without_rendering()
                around = made.get_tightbbox().padded(0.1)  # measured once for all formats: it costs as much as drawing
                for kind in formats:
                    path = folder / f"{stem}.{kind}"
                    made.savefig(path, bbox_inches=around, dpi=150, metadata=_METADATA.get(kind))
                    written.append(path)
    return written


def stems(figure: Figure) -> list[str]:
    """File names without ending, one for every choice of the horizontal axis."""
    if len(figure.views) < 2:
        return [figure.name]
    return [f"{figure.name}-{view.label.replace(' ', '-')}" for view in figure.views]


# No dates: the same numbers give the same files.
_METADATA: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def as_matplotlib(figure: Figure, view: int = 0) -> Any:
    """A matplotlib figure of one view; not tied to any window system."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "axes.axisbelow": True}):
        canvas = _canvas()(figsize=(6.4, max(2.4, figure.height / 105)))
        axes = canvas.add_subplot()
        horizontal = figure.views[view].x if figure.views else tuple(t["x"] for t in figure.traces)
        lower: Any = None
        bars = [t for t in figure.traces if t["type"] == "bar"]
        for i, (trace, x) in enumerate(zip(figure.traces, horizontal, strict=True)):
            if trace.get("visible") == "legendonly":
                continue
            if trace["type"] == "bar":
                _bars(axes, trace, x, bars.index(trace), len(bars))
            elif trace.get("fill") == "tonexty":
                axes.fill_between(
                    _numbers(x), _numbers(lower), _numbers(trace["y"]), alpha=0.18, linewidth=0, color=_color(trace)
                )
            elif trace.get("line", {}).get("width") == 0:
                lower = trace["y"]
            else:
                _line(axes, trace, x, i)
        _axes(axes, figure, view)
        shown, _ = axes.get_legend_handles_labels()
        if len(shown) > 1 and figure.layout.get("showlegend", True):
            axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
        return canvas


@cache
def _canvas() -> Any:
    """Matplotlib's figure with a picture of itself: notebooks show one without pyplot only if it brings its own."""
    from matplotlib.figure import Figure as Canvas

    class Shown(Canvas):
        def _repr_png_(self) -> bytes:
            buffer = BytesIO()
            self.savefig(buffer, format="png", bbox_inches="tight", dpi=110)
            return buffer.getvalue()

    return Shown


def _color(trace: dict[str, Any]) -> str:
    named = trace.get("fillcolor") or trace.get("line", {}).get("color") or trace["marker"]["color"]
    digits = named.partition("--series-")[2]
    return PALETTE[int(digits[0]) - 1] if digits else "#000000"


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float("nan") if v is None else float(v) for v in values]


def _line(axes: Any, trace: dict[str, Any], x: Sequence[Any], order: int) -> None:
    symbol = trace.get("marker", {}).get("symbol", "circle")
    if isinstance(symbol, list):  # one kind of marker a point: drawn one by one, named once
        for i, own in enumerate(symbol):
            error = trace.get("error_y")
            if error:
                error = error | {side: error[side][i : i + 1] for side in ("array", "arrayminus")}
            one = trace | {"y": trace["y"][i : i + 1], "marker": {**trace["marker"], "symbol": own}, "error_y": error}
            _line(axes, one | {"name": "_" if i else trace["name"]}, x[i : i + 1], order)
        return
    color, mode = _color(trace), trace["mode"]
    error = trace.get("error_y")
    axes.errorbar(
        _numbers(x),
        _numbers(trace["y"]),
        yerr=[_numbers(error[side]) for side in ("arrayminus", "array")] if error else None,
        capsize=2 if error else 0,
        color=color,
        label=trace["name"],
        linestyle=_DASHES[trace["line"].get("dash", "solid")] if "lines" in mode else "none",
        marker=_MARKERS[symbol] if "markers" in mode else None,
        markerfacecolor="none" if symbol.endswith("-open") else color,
        markersize=max(3, trace["marker"]["size"] * 0.6),
        linewidth=1.4,
        zorder=2 + order / 1000,
    )


def _bars(axes: Any, trace: dict[str, Any], x: Sequence[Any], index: int, count: int) -> None:
    height = 0.8 / count
    positions = [i + (index - (count - 1) / 2) * height for i in range(len(trace["y"]))]
    axes.barh(positions, _numbers(x), height=height, color=_color(trace), label=trace["name"])
    axes.set_yticks(range(len(trace["y"])), trace["y"])
    axes.set_ylim(len(trace["y"]) - 0.4, -0.6)


def _axes(axes: Any, figure: Figure, view: int) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    across, up = figure.layout.get("xaxis", {}), figure.layout.get("yaxis", {})
    axes.set_title(figure.title, fontsize=10)
    title = figure.views[view].title if figure.views else across.get("title", {}).get("text", "")
    axes.set_xlabel(title.replace("<br>", "\n"))
    axes.set_ylabel(up.get("title", {}).get("text", ""))
    ticks = figure.views[view].ticks if figure.views else across.get("tickvals", ())
    if ticks:
        axes.set_xscale("log")
        axes.set_xticks(ticks, minor=False)
        axes.minorticks_off()
    if "range" in across:
        axes.set_xlim(across["range"])
    if figure.views and figure.views[view].tickformat == "~s":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    elif figure.views and figure.views[view].label == "server steps" and not ticks:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif ticks:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for side, described in ((axes.xaxis, across), (axes.yaxis, up)):
        if str(described.get("tickformat", "")).endswith("%"):
            side.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.grid(True, linewidth=0.4, color="#d5d9de")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
