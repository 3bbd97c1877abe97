"""Metric and loss against steps, virtual time, bytes and objective evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedopt.report import figures, text
from fedopt.report.figures import Figure, View
from fedopt.report.page import Section
from fedopt.report.run_data import RunData


def section(run: RunData) -> Section:
    """How the model learned."""
    return Section("learning", "Learning", [f for f in (_metric_figure(run), _loss_figure(run)) if f is not None])


def cost_views(run: RunData, positions: list[np.ndarray]) -> tuple[View, ...]:
    """The horizontal axes of a learning curve: for every trace the rounds at ``positions``."""

    def view(label: str, title: str, column: list[Any], tickformat: str = "", **ticks: Any) -> View:
        return View(label, title, tuple(figures.plain([column[i] for i in p]) for p in positions), tickformat, **ticks)

    steps = run.round_column("step")
    found = [
        view("server steps", "server step", steps, **figures.whole_ticks([steps[i] for p in positions for i in p])),
        view(run.clock, f"{run.clock} (s)", run.round_column("time_s")),
        view("bytes", "bytes sent, both ways", run.total_bytes, "~s"),
    ]
    if any(run.round_column("queries")):
        found.append(view("evaluations", "objective evaluations", run.round_column("queries"), "~s"))
    return tuple(found)


def _metric_figure(run: RunData) -> Figure | None:
    values = run.round_column("metric_value")
    kept = figures.thin(values)
    if len(kept) == 0:
        return None
    name, shown = run.metric_name, [values[i] for i in kept]
    percent = "accuracy" in name
    views = cost_views(run, [kept])
    final = text.metric(shown[-1], name)
    extreme = f"lowest {text.metric(min(shown), name)}, highest {text.metric(max(shown), name)}"
    return Figure(
        name="metric",
        title=f"Test {name}",
        alt=f"Line: test {name} over the run, from {text.metric(shown[0], name)} to {final}; {extreme}.",
        traces=[figures.line(name, views[0].x[0], shown, 0)],
        layout={"yaxis": figures.metric_axis(name, shown, percent)},
        columns=("step", "time (s)", "bytes", name),
        rows=_rows(run, kept, {name: values}),
        caption="The global model on the test set, at the steps that were evaluated.",
        views=views,
    )


def _loss_figure(run: RunData) -> Figure | None:
    columns = {"training loss": run.round_column("train_loss"), "test loss": run.round_column("test_loss")}
    kept = {name: figures.thin(values) for name, values in columns.items()}
    names = [name for name in columns if len(kept[name])]
    if not names:
        return None
    views = cost_views(run, [kept[name] for name in names])
    color = {"training loss": 1, "test loss": 0}
    traces = []
    for name, x in zip(names, views[0].x, strict=True):
        traces.append(figures.line(name, x, [columns[name][i] for i in kept[name]], color[name]))
    everything = [v for trace in traces for v in trace["y"] if v is not None and v > 0]
    logarithmic = len(everything) > 1 and max(everything) / min(everything) > 100
    rows = _rows(run, np.union1d(*(kept[name] for name in (names * 2)[:2])).astype(int), columns)
    return Figure(
        name="loss",
        title="Loss",
        alt="Lines: " + "; ".join(f"{t['name']} from {t['y'][0]} to {t['y'][-1]}" for t in traces) + ".",
        traces=traces,
        layout={"yaxis": figures.axis("loss", type="log" if logarithmic else "linear")},
        columns=("step", "time (s)", "bytes", *columns),
        rows=rows,
        caption="Training loss is the mean over the work of the clients whose replies a step used.",
        views=views,
    )


def _rows(run: RunData, kept: np.ndarray, columns: dict[str, list[Any]]) -> list[list[Any]]:
    step, time_s = run.round_column("step"), run.round_column("time_s")
    chosen = kept[figures.evenly(len(kept), figures.MAX_TABLE_ROWS)]
    return [[step[i], time_s[i], run.total_bytes[i], *(c[i] for c in columns.values())] for i in chosen]
