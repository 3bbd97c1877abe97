"""A deployment against its own prediction: the same scenario, simulated on the recorded timings."""

from __future__ import annotations

import json
from typing import Any

from fedopt.report import figures
from fedopt.report.figures import Figure, View, line
from fedopt.report.page import Section
from fedopt.report.run_data import RunData
from fedopt.report.text import duration, metric, paragraphs

FILE = "prediction.json"


def section(run: RunData) -> Section:
    """Predicted against real time and metric; empty without a recorded trace."""
    path = run.directory / FILE
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    if not rows:
        return Section("prediction", "Predicted against real", [])
    blocks: list[Figure | str] = [paragraphs(_words(rows, run.metric_name)), _times(rows)]
    if any(row["real_metric"] is not None for row in rows):
        blocks.append(_metrics(rows, run.metric_name))
    return Section("prediction", "Predicted against real", blocks)


def _words(rows: list[dict[str, Any]], name: str) -> str:
    last = rows[-1]
    real, predicted = last["real_time_s"], last["predicted_time_s"]
    text = f"Step {last['step']} came after {duration(real)}; replaying the recorded timings predicts "
    text += duration(predicted)
    if last["real_metric"] is not None and last["predicted_metric"] is not None:
        pair = metric(last["real_metric"], name), metric(last["predicted_metric"], name)
        text += f". The {name} was {pair[0]}, predicted {pair[1]}"
    return text + ". The prediction leaves out what the server itself needed between steps."


def _times(rows: list[dict[str, Any]]) -> Figure:
    return _figure("predicted-time", "Time of every step", "seconds", rows, "real_time_s", "predicted_time_s")


def _metrics(rows: list[dict[str, Any]], name: str) -> Figure:
    return _figure("predicted-metric", f"{name} after every step", name, rows, "real_metric", "predicted_metric")


def _figure(key: str, title: str, unit: str, rows: list[dict[str, Any]], real: str, predicted: str) -> Figure:
    steps = [row["step"] for row in rows]
    columns = [[row[name] for row in rows] for name in (real, predicted)]
    return Figure(
        name=key,
        title=title,
        alt=f"{title}: real and predicted, against the server step",
        traces=[line("real", steps, columns[0], 0), line("predicted", steps, columns[1], 1)],
        layout={"yaxis": {"title": {"text": unit}}},
        columns=("step", "real", "predicted"),
        rows=[(step, *pair) for step, *pair in zip(steps, *columns, strict=True)],
        views=(View("server step", "server step", (steps, steps), **figures.whole_ticks(steps)),),
    )
