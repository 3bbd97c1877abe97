"""The clients' data and what the final model does for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedopt.report import figures, text
from fedopt.report.figures import Figure
from fedopt.report.page import Section
from fedopt.report.run_data import RunData

SHOWN_CLIENTS = 100
STACKED_CLIENTS = 20
STACKED_CLASSES = 8
NAMED_CLASSES = 30
_HEAT = [[0, "var(--heat-0)"], [0.5, "var(--heat-1)"], [1, "var(--heat-2)"]]


def split_section(run: RunData) -> Section:
    """How the data are split: classes per client, and examples per client."""
    return Section("split", "How the data are split", [f for f in (_classes(run), _sizes(run)) if f is not None])


def spread_section(run: RunData) -> Section:
    """Fairness: the final model on every client's own data."""
    rows = [row for row in run.clients.to_pylist() if row["local_metric"] is not None]
    values = np.array([row["local_metric"] for row in rows], dtype=float)
    kept = np.isfinite(values)
    name = next((row["metric_name"] for row in rows if row["metric_name"]), run.metric_name)
    blocks: list[Figure | str] = []
    if kept.any():
        higher = run.summary.get("metric_goal", "max") != "min"
        blocks = [_spread(values[kept], name, higher, _measured_on(rows)), _spread_numbers(values[kept], name, higher)]
    return Section("fairness", "Spread over clients", blocks)


def _classes(run: RunData) -> Figure | None:
    """Classes by client: stacked bars for few clients and classes, else a heat map of shares."""
    rows = [row for row in run.clients.to_pylist() if row["class_counts"]]
    if not rows:
        return None
    shown = [rows[i] for i in figures.evenly(len(rows), SHOWN_CLIENTS)]
    counts = np.array([row["class_counts"] for row in shown], dtype=float)
    names = class_names(run, counts.shape[1])
    clients = [str(row["client_id"]) for row in shown]
    few = len(shown) <= STACKED_CLIENTS and len(names) <= STACKED_CLASSES
    traces, layout = _stacked(counts, names, clients) if few else _heat_map(counts, names, clients)
    sampled = f", {len(shown)} of {len(rows)} clients, chosen evenly" if len(shown) < len(rows) else ""
    columns = [f"class {name}" for name in names]
    table = [[row["client_id"], *row["class_counts"]] for row in shown]
    largest = (counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)).mean()
    return Figure(
        name="classes",
        title="Classes by client",
        alt=f"Training examples per class for {len(shown)} clients. The most frequent class of a client holds "
        f"{100 * largest:.0f} per cent of its examples on average; an even split would give {100 / len(names):.0f}.",
        traces=traces,
        layout=layout,
        columns=("client", *columns),
        rows=table,
        caption=f"Training examples per class{sampled}.",
        wide=True,
        height=360 if few else int(min(560, 170 + 26 * len(names))),
    )


def class_names(run: RunData, count: int) -> list[str]:
    """Names of the classes, or their numbers."""
    names = run.summary.get("class_names") or []
    return [str(name) for name in names] if len(names) == count else [str(i) for i in range(count)]


def _stacked(counts: np.ndarray, names: list[str], clients: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    traces = [figures.bars(name, clients, counts[:, k], k) for k, name in enumerate(names)]
    layout = {
        "barmode": "stack",
        "xaxis": figures.axis("client", type="category"),
        "yaxis": figures.axis("training examples"),
    }
    return traces, layout


def _heat_map(counts: np.ndarray, names: list[str], clients: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    trace = {
        "type": "heatmap",
        "x": clients,
        "y": names,
        "z": [figures.plain(row) for row in shares.T],
        "customdata": counts.T.astype(int).tolist(),
        "colorscale": _HEAT,
        "zmin": 0,
        "zmax": 1,
        "colorbar": {
            "title": {"text": "share of the client", "side": "right"},
            "tickformat": ".0%",
            "thickness": 12,
        },
        "hovertemplate": "client %{x}, class %{y}<br>%{customdata} examples, %{z:.1%}<extra></extra>",
    }
    layout = {"xaxis": figures.axis("client", type="category"), "yaxis": figures.axis("class", type="category")}
    if len(names) <= NAMED_CLASSES:
        layout["yaxis"]["dtick"] = 1  # every class has its name

    return [trace], layout


def _sizes(run: RunData) -> Figure | None:
    rows = [row for row in run.clients.to_pylist() if row["num_examples"] is not None]
    if not rows:
        return None
    sizes = np.sort(np.array([row["num_examples"] for row in rows]))[::-1]
    if not sizes.any():  # functions have no examples
        return None
    kept = figures.evenly(len(sizes), figures.MAX_POINTS)
    layout = {"xaxis": figures.axis("clients, largest first"), "yaxis": figures.axis("examples", rangemode="tozero")}
    top = max(1, len(sizes) // 10)
    share = sizes[:top].sum() / max(1, sizes.sum())
    return Figure(
        name="sizes",
        title="Examples per client",
        alt=f"Curve of examples per client, from {sizes[0]} down to {sizes[-1]}, median {np.median(sizes):.0f}.",
        traces=[figures.line("examples", kept + 1, sizes[kept], 2, fill="tozeroy")],
        layout=layout,
        columns=("rank", "examples"),
        rows=figures.table_rows({"rank": range(1, len(sizes) + 1), "examples": sizes.tolist()}),
        caption=f"The largest tenth of the clients holds {text.percent(share)} of the examples.",
    )


def spread_of(values: np.ndarray, higher_is_better: bool) -> dict[str, float]:
    """Fairness in numbers: mean, standard deviation, worst and best client, worst and best tenth, median.

    >>> spread_of(np.arange(10.0), True)["worst tenth"], spread_of(np.arange(10.0), False)["worst tenth"]
    (0.0, 9.0)
    """
    ranked = np.sort(values) if higher_is_better else np.sort(values)[::-1]
    tenth = max(1, len(ranked) // 10)
    return {
        "worst client": float(ranked[0]),
        "worst tenth": float(ranked[:tenth].mean()),
        "median": float(np.median(ranked)),
        "mean": float(ranked.mean()),
        "best tenth": float(ranked[-tenth:].mean()),
        "standard deviation": float(ranked.std()),
    }


def _measured_on(rows: list[dict[str, Any]]) -> str:
    """What the local metrics of a run are of: without test shares they are of what the clients trained on."""
    if any(row["num_test_examples"] for row in rows):
        return "own test share"
    if any(row["metric_name"] == "objective" for row in rows):
        return "own objective"
    return "own training examples, for no client has a test share (data.client_test_fraction gives them one)"


def _spread(values: np.ndarray, name: str, higher: bool, measured_on: str) -> Figure:
    ranked = np.sort(values) if higher else np.sort(values)[::-1]
    kept = figures.evenly(len(ranked), figures.MAX_POINTS)
    share = (kept + 0.5) / len(ranked)
    numbers = spread_of(values, higher)
    traces = [figures.line("clients, worst first", share, ranked[kept], 0)]
    ends = {"worst tenth": ([0.0, 0.1], 6), "mean": ([0.0, 1.0], 2)}
    for label, (x, color) in ends.items():
        dash = {"color": figures.series(color), "width": 2, "dash": "dash"}
        traces.append(figures.line(label, x, [numbers[label]] * 2, color, mode="lines", line=dash))
    layout = {
        "xaxis": figures.axis("share of clients, worst first", tickformat=".0%"),
        "yaxis": figures.metric_axis(f"local {name}", ranked.tolist(), "accuracy" in name),
    }
    return Figure(
        name="spread",
        title=f"Local {name} of the final model",
        alt=f"Sorted curve of {len(ranked)} clients; worst tenth {text.metric(numbers['worst tenth'], name)}, "
        f"mean {text.metric(numbers['mean'], name)}.",
        traces=traces,
        layout=layout,
        columns=("share of clients", f"local {name}"),
        rows=figures.table_rows(
            {"share": ((np.arange(len(ranked)) + 0.5) / len(ranked)).tolist(), name: ranked.tolist()}
        ),
        caption=f"The final global model on each client's {measured_on}. A flat curve serves everybody alike.",
    )


def _spread_numbers(values: np.ndarray, name: str, higher: bool) -> str:
    numbers = spread_of(values, higher)
    rows = [[label, text.metric(value, name)] for label, value in numbers.items()]
    return text.table(("over clients", f"local {name}"), rows, f"{len(values)} clients were evaluated.")
