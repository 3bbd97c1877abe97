"""Who worked when: participation, staleness and the timeline of arrivals."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from fedopt.report import figures
from fedopt.report.figures import Figure
from fedopt.report.page import Section
from fedopt.report.run_data import RunData

TIMELINE_TASKS = 300
_STATUS_COLORS = {"admitted": 0, "held": 4, "rejected": 3, "lost": 1, "failed": 6, "duplicate": 7}
_STATUS_MARKERS = {
    "admitted": "circle",
    "held": "square",
    "rejected": "diamond",
    "lost": "x",
    "failed": "star",
    "duplicate": "cross",
}


def section(run: RunData) -> Section:
    """Participation, staleness, timeline."""
    found = (_participation(run), _participations_per_client(run), _staleness(run), _staleness_spread(run))
    return Section("schedule", "Participation and staleness", [f for f in (*found, _timeline(run)) if f is not None])


def _over_steps(run: RunData, columns: dict[str, str], **about: Any) -> Figure | None:
    """Lines of some columns over server steps; ``columns``: name of the trace -> column."""
    values = {name: run.round_column(column) for name, column in columns.items()}
    if not any(v is not None for column in values.values() for v in column):
        return None
    steps, traces = run.round_column("step"), []
    for i, (name, column) in enumerate(values.items()):
        kept = figures.thin(column)
        traces.append(figures.line(name, [steps[j] for j in kept], [column[j] for j in kept], i))
    rows = figures.table_rows({"step": steps, **values})
    counted = [v for column in values.values() for v in column]
    is_whole = all(v is None or float(v).is_integer() for v in counted)
    upright = figures.whole_ticks([0, *counted]) if is_whole else {}
    layout = {
        "xaxis": figures.axis("server step", **figures.whole_ticks(steps)),
        "yaxis": figures.axis(about.pop("unit"), rangemode="tozero", **upright),
    }
    return Figure(traces=traces, layout=layout, columns=("step", *values), rows=rows, **about)


def _participation(run: RunData) -> Figure | None:
    return _over_steps(
        run,
        {"replies used": "participants", "lost or failed": "lost"},
        name="participation",
        title="Replies per server step",
        alt="Lines over server steps: replies used by each step, and tasks lost or failed since the step before.",
        unit="tasks",
    )


def _staleness(run: RunData) -> Figure | None:
    return _over_steps(
        run,
        {"mean": "staleness_mean", "largest": "staleness_max"},
        name="staleness",
        title="Staleness over server steps",
        alt="Lines over server steps: mean and largest staleness of the replies used.",
        caption="Server versions between the dispatch of a task and the use of its reply.",
        unit="versions",
    )


def _bar_figure(labels: list[str], counts: list[int], unit: str, what: str, **about: Any) -> Figure | None:
    if not labels:
        return None
    layout = {
        "xaxis": figures.axis(unit, type="category"),
        "yaxis": figures.axis(what, rangemode="tozero", **figures.whole_ticks([0, *counts])),
        "bargap": 0.15,
    }
    top = labels[int(np.argmax(counts))]
    alt = f"Bars: number of {what} by {unit}; the most frequent is {top} with {max(counts)}."
    rows = [[label, count] for label, count in zip(labels, counts, strict=True)]
    traces = [figures.bars(what, labels, counts)]
    return Figure(traces=traces, layout=layout, alt=alt, columns=(unit, what), rows=rows, **about)


def _staleness_spread(run: RunData) -> Figure | None:
    used = run.update_numbers("staleness")[run.statuses == "admitted"]
    labels, counts = figures.histogram(used[np.isfinite(used)])
    return _bar_figure(
        labels,
        counts,
        "staleness (versions)",
        "replies used",
        name="staleness-spread",
        title="Distribution of staleness",
    )


def _participations_per_client(run: RunData) -> Figure | None:
    labels, counts = figures.histogram(np.asarray(run.clients["participations"].to_numpy()))
    population = run.summary.get("population")
    left = population - run.clients.num_rows if population else 0
    caption = f"A further {left} clients of the population were never asked." if left > 0 else ""
    return _bar_figure(
        labels,
        counts,
        "replies used of one client",
        "clients",
        name="participations",
        title="How often clients took part",
        caption=caption,
    )


def _timeline(run: RunData) -> Figure | None:
    """The first tasks as bars from dispatch to arrival; a lane is a place in which one client works at a time."""
    sent, arrived = run.update_numbers("dispatched_s"), run.update_numbers("arrived_s")
    client, version = run.update_numbers("client_id"), run.update_numbers("version")
    known = np.flatnonzero(np.isfinite(arrived))
    first = known[np.lexsort((client[known], sent[known]))][:TIMELINE_TASKS]
    if len(first) == 0:
        return None
    end = float(arrived[first].max())
    if end <= 0:
        return None
    lanes = assign_lanes(sent[first], arrived[first])
    traces = []
    for status in _STATUS_COLORS:
        members = [(i, lane) for i, lane in zip(first, lanes, strict=True) if run.statuses[i] == status]
        if members:
            traces.append(_timeline_trace(status, members, sent, arrived, client, version))
    steps = [t for t in run.round_column("time_s") if t <= end][:TIMELINE_TASKS]
    if steps:
        marks = {"mode": "markers", "marker": {"color": "var(--muted)", "symbol": "line-ns-open", "size": 9}}
        hover = "server step at %{x} s<extra></extra>"
        traces.append(figures.line("server step", steps, [-1.0] * len(steps), 7, **marks, hovertemplate=hover))
    count = int(lanes.max()) + 1
    shown = list(range(0, count, -(-count // 6)))  # the marks of the steps lie below the lanes
    rows = [[int(client[i]), sent[i], arrived[i], int(version[i]), run.statuses[i]] for i in first]
    return Figure(
        name="timeline",
        title=f"Timeline of the first {len(first)} tasks",
        alt=f"Bars from dispatch to arrival of {len(first)} tasks in {lanes.max() + 1} lanes, until {end:.4g} s.",
        traces=traces,
        layout={
            "xaxis": figures.axis(f"{run.clock} (s)"),
            "yaxis": figures.axis(
                "clients at work", showgrid=False, zeroline=False, tickvals=shown, ticktext=[str(i + 1) for i in shown]
            ),
        },
        columns=("client", "dispatched (s)", "arrived (s)", "version", "status"),
        rows=rows[: figures.MAX_TABLE_ROWS],
        caption="Each bar is one task from dispatch to arrival or loss. Ticks at the bottom are server steps.",
        wide=True,
        height=int(min(620, 190 + 9 * (lanes.max() + 1))),
    )


def _timeline_trace(
    status: str, members: list[tuple[int, int]], sent: Any, arrived: Any, client: Any, version: Any
) -> dict[str, Any]:
    """One trace of separate horizontal bars, with a marker where each ends."""
    x: list[Any] = []
    y: list[Any] = []
    labels: list[str] = []
    sizes: list[int] = []
    for i, lane in members:
        label = f"client {int(client[i])}, version {int(version[i])}, {sent[i]:.5g} to {arrived[i]:.5g} s, {status}"
        x += [sent[i], arrived[i], None]
        y += [int(lane), int(lane), None]
        labels += [label, label, ""]
        sizes += [0, 6, 0]
    color = figures.series(_STATUS_COLORS[status])
    marker = {"color": color, "size": sizes, "symbol": _STATUS_MARKERS[status]}
    style = {"mode": "lines+markers", "line": {"color": color, "width": 3}, "marker": marker}
    trace = figures.line(status, x, y, 0, **style)
    return {**trace, "text": labels, "hovertemplate": "%{text}<extra></extra>", "connectgaps": False}


def assign_lanes(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Give every task, in order of its start, the lowest lane that is free.

    >>> assign_lanes(np.array([0.0, 0.0, 1.0]), np.array([1.0, 3.0, 2.0])).tolist()
    [0, 1, 0]
    """
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    lanes, opened = np.zeros(len(starts), dtype=np.int64), 0
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            free, opened = [opened], opened + 1
        lanes[i] = heapq.heappop(free)
        heapq.heappush(busy, (end, int(lanes[i])))
    return lanes
