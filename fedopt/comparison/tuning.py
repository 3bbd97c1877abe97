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
    if problems:
        raise ScenarioError(list(problems))
    found: dict[Cell, list[PlannedRun]] = {}
    for cell in cells(described):
        for values in tried[cell.variant]:
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
    )
    outcome = iter(done)
    results = {cell: [next(outcome) for _ in group] for cell, group in trials.items()}
    loaded = {id(d): load_run(d.directory) for group in results.values() for d in group if d.how != "failed"}
    goal = description.goal or _goal(list(loaded.values()), description.metric)
    chosen: dict[Cell, Values] = {}
    rows: list[dict[str, Any]] = []
    costs: list[str] = []
    failed: list[str] = []
    for cell, group in results.items():
        scores = [_score(loaded.get(id(d)), description.metric, goal) for d in group]
        best = max(range(len(group)), key=lambda i: (scores[i], -i))
        if math.isinf(scores[best]):
            failed.append(cell.label)
        chosen[cell] = dict(group[best].run.chosen)
        rows += [_row(cell, i, d, loaded.get(id(d)), description.metric, i == best) for i, d in enumerate(group)]
        costs += _cost(cell, [loaded[id(d)] for d in group if id(d) in loaded], loaded.get(id(group[best])))
    count = len(next(iter(results.values())))
    sentences = [_what(described, count), *_failures(failed), *_privacy_cost(costs)]
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


# ---- what the report says ------------------------------------------------------------------------------------------


def _what(described: Described, count: int) -> str:
    tune = described.description.tune
    assert tune is not None
    judged = {
        "training": f"examples held out from training ({tune.share:.0%} of every client's; with one example per "
        "client, that share of the clients' examples); the comparison trains on all training examples and is judged "
        "on the test set",
        "test_half": "one half of the test set; the comparison is judged on the other half",
        "objective": "the objective itself: the comparison judges on what was tuned on, with other seeds",
    }[tune.data]
    how = "every combination of" if tune.method == "grid" else f"{count} random draws of"
    shown = [f"{key} in {values}" for key, values in tune.parameters.items()]
    shown += [f"{name}: " + ", ".join(f"{k} in {v}" for k, v in own.items()) for name, own in tune.variants.items()]
    return (
        f"Every method, at every noise level, got {count} trials with seed {tune.seed} ({how} {'; '.join(shown)}), "
        f"judged on {judged}. The best final metric was chosen; the seeds of the comparison were not used."
    )


def _failures(failed: list[str]) -> list[str]:
    if not failed:
        return []
    return [f"No trial of {', '.join(failed)} ended with a finite metric; its first values were used."]


def _privacy_cost(costs: list[str]) -> list[str]:
    if not costs:
        return []
    return [
        "Privacy cost of tuning: the epsilons of this report are those of the final runs alone. A real deployment "
        "would have to pay for the trials, or tune on public data. Composed with all trials, a final run like the "
        f"chosen trial costs: {'; '.join(costs)}.",
        "Judging trials on validation examples without noise is a further release, which no epsilon here covers if "
        "those examples are private.",
    ]


def _cost(cell: Cell, trials: list[RunData], best: RunData | None) -> list[str]:
    """Epsilon of all trials and one more run like the best, by composition."""
    documents = [d.privacy for d in [*trials, *([best] if best is not None else [])] if d.privacy is not None]
    if not documents:
        return []
    first = documents[0]
    terms = f"unit {first['unit']}, {first['relation']}"
    if any(document["epsilon"] is None for document in documents):
        return [f"{cell.label}: no finite epsilon"]
    if all(len(document["charged"]) == 1 for document in documents):
        return [f"{cell.label}: epsilon {_composed(documents):.3g} at delta {first['delta']:g} ({terms})"]
    total = sum(document["epsilon"] for document in documents)
    delta = sum(document["delta"] for document in documents)
    return [f"{cell.label}: epsilon {total:.3g} at delta {delta:.3g} ({terms}; sums, an upper bound)"]


def _composed(documents: list[dict[str, Any]]) -> float:
    from fedopt.components import component
    from fedopt.privacy.ledger import charged_events

    first = documents[0]
    judge: Any = component("fedopt.privacy.accountants", first["epsilon_accountant"])()
    events = [event for document in documents for event in charged_events(document)[0]]
    return float(judge.epsilon(events, first["delta"], first["relation"]))
