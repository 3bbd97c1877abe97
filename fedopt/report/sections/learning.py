"""Metric and loss against steps, virtual time, bytes and objective evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedopt.report import figures, text
from fedopt.report.figures import Figure, View
from fedopt.report.page import Section
from fedopt.report.run_data import RunData

_ON_THE_TEST_SET = "The global model on the test set"


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
        view("bytes", "bytes sent, both ways", run.total_bytes, "~s"),
    ]
    if run.takes_time:
        found.insert(1, view(run.clock, f"{run.clock} (s)", run.round_column("time_s")))
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
    title = name.capitalize() if run.is_black_box else f"Test {name}"
    model = "The mean of the clients' functions at the global point" if run.is_black_box else _ON_THE_TEST_SET
    return Figure(
        name="metric",
        title=title,
        alt=f"Line: {title.lower()} over the run, from {text.metric(shown[0], name)} to {final}; {extreme}.",
        traces=[figures.line(name, views[0].x[0], shown, 0)],
        layout={"yaxis": figures.metric_axis(name, shown, percent)},
        columns=("step", "time (s)", "bytes", name),
        rows=_rows(run, kept, {name: values}),
        caption=f"{model}, at the steps that were evaluated.",
        views=views,
    )


def _loss_figure(run: RunData) -> Figure | None:
    columns = {"training loss": run.round_column("train_loss"), "test loss": run.round_column("test_loss")}
    if run.is_black_box:  # the loss of a function is its value, which is the metric
        columns = {"clients' own values": columns["training loss"]}
    kept = {name: figures.thin(values) for name, values in columns.items()}
    names = [name for name in columns if len(kept[name])]
    if not names:
        return None
    views = cost_views(run, [kept[name] for name in names])
    traces = []
    for name, x in zip(names, views[0].x, strict=True):
        traces.append(figures.line(name, x, [columns[name][i] for i in kept[name]], 0 if name == "test loss" else 1))
    everything = [v for trace in traces for v in trace["y"] if v is not None and v > 0]
    logarithmic = len(everything) > 1 and max(everything) / min(everything) > 100
    rows = _rows(run, np.union1d(*(kept[name] for name in (names * 2)[:2])).astype(int), columns)
    means = "is the mean over the work of the clients whose replies a step used."
    return Figure(
        name="loss",
        title="Loss" if len(names) > 1 else names[0][0].upper() + names[0][1:],
        alt="Lines: " + "; ".join(f"{t['name']} from {t['y'][0]} to {t['y'][-1]}" for t in traces) + ".",
        traces=traces,
        layout={
            "yaxis": figures.axis("value" if run.is_black_box else "loss", type="log" if logarithmic else "linear")
        },
        columns=("step", "time (s)", "bytes", *columns),
        rows=rows,
        caption="" if names == ["test loss"] else f"{'Their mean' if run.is_black_box else 'Training loss'} {means}",
        views=views,
    )


def _rows(run: RunData, kept: np.ndarray, columns: dict[str, list[Any]]) -> list[list[Any]]:
    step, time_s = run.round_column("step"), run.round_column("time_s")
    chosen = kept[figures.evenly(len(kept), figures.MAX_TABLE_ROWS)]
    return [[step[i], time_s[i], run.total_bytes[i], *(c[i] for c in columns.values())] for i in chosen]
