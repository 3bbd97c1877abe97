"""Hyper-parameters chosen before the comparison: the same number of trials for every method, on data kept apart."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedopt import rng
from fedopt.comparison import tables
from fedopt.comparison.description import Described, Tune
from fedopt.comparison.expansion import Cell, PlannedRun, cells, planned
from fedopt.comparison.results import final_metric
from fedopt.comparison.runs import Done, execute
from fedopt.comparison.tuning_words import at_the_ends, privacy_cost, what_was_tried, with_trials, without_result
from fedopt.report.run_data import RunData, load_run
from fedopt.scenario import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

Values = dict[str, Any]


def candidates(tune: Tune, variant: str) -> list[Values]:
    """What one variant tries, in order.

    Raises:
        ValueError: a parameter is neither a list nor, for random draws, a range.

    >>> candidates(Tune(parameters={"client.lr": [0.1, 1.0]}), "any")
    [{'client.lr': 0.1}, {'client.lr': 1.0}]
    """
    parameters = tune.variants.get(variant, tune.parameters)
    for key, values in parameters.items():
        _check(key, values, tune.method)
    if tune.method == "grid":
        return [dict(zip(parameters, point, strict=True)) for point in itertools.product(*parameters.values())]
    assert tune.trials is not None
    return [
        {key: _draw(values, rng.generator(tune.seed, f"tuning {key}", trial)) for key, values in parameters.items()}
        for trial in range(tune.trials)
    ]


def _check(key: str, values: Any, method: str) -> None:
    if isinstance(values, list) and values:
        return
    is_range = isinstance(values, Mapping) and {"low", "high"} <= set(values) <= {"low", "high", "log"}
    if (
        method == "random"
        and is_range
        and values["low"] < values["high"]
        and (not values.get("log") or values["low"] > 0)
    ):
        return
    ranges = ", or {low, high, log} with low < high (and low > 0 if log)" if method == "random" else ""
    raise ValueError(f"{key}: must be a list of values{ranges}, got {values!r}")


def _draw(values: Any, generator: Any) -> Any:
    if isinstance(values, list):
        return values[int(generator.integers(len(values)))]
    low, high, share = values["low"], values["high"], float(generator.random())
    return low * (high / low) ** share if values.get("log") else low + (high - low) * share


def plan_trials(described: Described) -> dict[Cell, list[PlannedRun]]:
    """Every trial of every cell, checked.

    Raises:
        ScenarioError: parameters that cannot be tried, unequal budgets, or trials that are no valid scenarios.
    """
    tune = described.description.tune
    assert tune is not None
    problems: dict[str, None] = {}
    tried: dict[str, list[Values]] = {}
    for variant in described.description.variants:
        try:
            tried[variant] = candidates(tune, variant)
        except ValueError as error:
            place = ("tune", "variants", variant) if variant in tune.variants else ("tune", "parameters")
            problems[described.message(place, str(error))] = None
    budgets = {variant: len(points) for variant, points in tried.items()}
    if len(set(budgets.values())) > 1:
        counted = ", ".join(f"{variant} {count}" for variant, count in budgets.items())
        problems[described.message(("tune",), f"every method must get the same number of trials, got {counted}")] = None
    found: dict[Cell, list[PlannedRun]] = {}
    for cell in cells(described):
        for values in tried.get(cell.variant, ()):
            try:
                run = planned(described, cell, tune.seed, values, _split(tune))
            except ScenarioError as error:
                problems |= dict.fromkeys(error.problems)
                continue
            # Trials are many and seen by nobody one by one: no per-client metrics, one evaluation less to pay for.
            settings = run.scenario.run.model_copy(update={"evaluate_clients": "none"})
            found.setdefault(cell, []).append(replace(run, scenario=run.scenario.model_copy(update={"run": settings})))
    if problems:
        raise ScenarioError(list(problems))
    return found


def _split(tune: Tune) -> str:
    return {"training": f"held_out:{tune.share}", "test_half": "first_half", "objective": "whole"}[tune.data]


def tune(described: Described, folder: Path, quiet: bool) -> tuple[dict[Cell, Values], list[str], pd.DataFrame]:
    """Run the trials and choose.

    Returns:
        Chosen values per cell, sentences for the report, and the table of trials.
    """
    description = described.description
    trials = plan_trials(described)
    runs = [run for group in trials.values() for run in group]
    if not quiet:
        import sys

        print(f"tuning: {len(runs)} trials", file=sys.stderr, flush=True)
    done = execute(
        runs,
        folder,
        description.processes,
        quiet,
        description.executor,
        f"{description.name} (tuning)",
        description.batch_runs,
        later=len(trials) * len(description.seeds),
    )
    outcome = iter(done)
    results = {cell: [next(outcome) for _ in group] for cell, group in trials.items()}
    loaded = {id(d): load_run(d.directory) for group in results.values() for d in group if d.how != "failed"}
    goal = description.goal or _goal(list(loaded.values()), description.metric)
    chosen: dict[Cell, Values] = {}
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for cell, group in results.items():
        scores = [_score(loaded.get(id(d)), description.metric, goal) for d in group]
        best = max(range(len(group)), key=lambda i: (scores[i], -i))
        if math.isinf(scores[best]):
            failed.append(cell.label)
        chosen[cell] = dict(group[best].run.chosen)
        own = [_row(cell, i, d, loaded.get(id(d)), description.metric, i == best) for i, d in enumerate(group)]
        own[best] |= with_trials([loaded[id(d)] for d in group if id(d) in loaded], loaded.get(id(group[best])))
        rows += own
    count = len(next(iter(results.values())))
    sentences = [what_was_tried(description, count), *without_result(failed)]
    sentences += [*at_the_ends(description, chosen), *privacy_cost(rows)]
    return chosen, sentences, tables.frame("trials", rows)


def _goal(loaded: Sequence[RunData], metric: str) -> str:
    if metric == "test_loss":
        return "min"
    return str(next((d.summary["metric_goal"] for d in loaded if d.summary.get("metric_goal")), "max"))


def _score(data: RunData | None, metric: str, goal: str) -> float:
    value = None if data is None else final_metric(data, metric)
    return -math.inf if value is None or not math.isfinite(value) else value if goal == "max" else -value


def _row(cell: Cell, number: int, done: Done, data: RunData | None, metric: str, is_chosen: bool) -> dict[str, Any]:
    return {
        "base": cell.base,
        "variant": cell.variant,
        "level": cell.level,
        "level_kind": cell.level_kind,
        "trial": number,
        "values": json.dumps(dict(done.run.chosen), default=str),
        "status": "failed" if data is None else data.summary.get("status"),
        "metric": None if data is None else final_metric(data, metric),
        "epsilon": None if data is None else data.summary.get("epsilon"),
        "is_chosen": is_chosen,
    }
