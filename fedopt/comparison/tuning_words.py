"""What the report says about tuning: what was tried, whether the grid was wide enough, and what it costs in privacy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedopt.comparison.description import Description
from fedopt.comparison.expansion import Cell
from fedopt.report.run_data import RunData

Rows = Sequence[Mapping[str, Any]]


def what_was_tried(description: Description, count: int) -> str:
    """Budget, candidates and validation data, in one sentence each."""
    tune = description.tune
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
        f"judged on {judged}. The best final metric was chosen; the seeds of the comparison were not used. The "
        "intervals of this report hold for the chosen values: they do not count the luck of choosing."
    )


def without_result(failed: Sequence[str]) -> list[str]:
    """Methods of which no trial ended with a number."""
    if not failed:
        return []
    return [f"No trial of {', '.join(failed)} ended with a finite metric; its first values were used."]


def at_the_ends(description: Description, chosen: Mapping[Cell, Mapping[str, Any]]) -> list[str]:
    """A warning for values chosen at an end of their grid: the best one may lie outside."""
    tune = description.tune
    assert tune is not None
    found = []
    for cell, values in chosen.items():
        lists = tune.variants.get(cell.variant, tune.parameters)
        ends = [key for key, value in values.items() if _is_end(lists[key], value)]
        if ends:
            found.append(f"{cell.label} ({', '.join(f'{key} = {values[key]}' for key in ends)})")
    if not found:
        return []
    return [f"Chosen at an end of the grid, so that a wider one may do better: {'; '.join(found)}."]


def _is_end(candidates: Any, value: Any) -> bool:
    if not isinstance(candidates, list) or len(candidates) < 2:
        return False
    is_number = all(isinstance(c, int | float) and not isinstance(c, bool) for c in candidates)
    return is_number and value in (min(candidates), max(candidates))


def privacy_cost(trials: Rows) -> list[str]:
    """What the trials would cost a real deployment; empty without privacy."""
    private = [row for row in trials if row["is_chosen"] and row.get("delta_with_trials") is not None]
    if not private:
        return []
    times = [row["epsilon_with_trials"] / row["epsilon"] for row in private if row["epsilon_with_trials"] is not None]
    many = f"{min(times):.2g} to {max(times):.2g} times its epsilon" if times else "no finite epsilon"
    return [
        "Privacy cost of tuning: the epsilons of this report are those of the final runs alone. A real deployment "
        "would have to pay for the trials, or tune on public data. Composed with all trials of its method, a final run "
        f"like the chosen trial costs {many}; the table says it for every method.",
        "Judging trials on validation examples without noise is a further release, which no epsilon here covers if "
        "those examples are private.",
    ]


def with_trials(trials: Sequence[RunData], best: RunData | None) -> dict[str, float | None]:
    """Epsilon and delta of all trials and one more run like the best, by composition; empty without privacy.

    Trials with several charged sequences of events are summed: an upper bound, with the deltas summed too.
    """
    documents = [d.privacy for d in [*trials, *([best] if best is not None else [])] if d.privacy is not None]
    if not documents:
        return {}
    first = documents[0]
    if any(document["epsilon"] is None for document in documents):
        return {"epsilon_with_trials": None, "delta_with_trials": first["delta"]}
    if all(len(document["charged"]) == 1 for document in documents):
        return {"epsilon_with_trials": _composed(documents), "delta_with_trials": first["delta"]}
    total, delta = (sum(document[key] for document in documents) for key in ("epsilon", "delta"))
    return {"epsilon_with_trials": total, "delta_with_trials": delta}


def _composed(documents: list[dict[str, Any]]) -> float:
    from fedopt.components import component
    from fedopt.privacy.ledger import charged_events

    first = documents[0]
    judge: Any = component("fedopt.privacy.accountants", first["epsilon_accountant"])()
    events = [event for document in documents for event in charged_events(document)[0]]
    return float(judge.epsilon(events, first["delta"], first["relation"]))
