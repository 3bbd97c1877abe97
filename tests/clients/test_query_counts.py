"""Queries end to end: of every kind of work, and of replies that are not used."""

from __future__ import annotations

from typing import Any

import pytest
from zeroth_order_runs import COMFL, DIFFERENCES, DIGITS, FZOOS, LOGGED, SPSA, STREAM, TWO, N, Quick

from fedopt.server.core import Core

DPZERO = {"kind": "dp_spsa", "sampling_probability": 0.2, "batch_size": 30}
EXAMPLES = {"unit": "example", "relation": "add_or_remove_one",
            "mechanism": {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 2.0}}  # fmt: skip
HALF = {"devices": {"work": {"kind": "fixed_fraction", "low": 0.5, "high": 0.5}}}
WORKS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    **LOGGED,
    "forward": ({**SPSA, "scheme": "forward"}, {**COMFL, "local_steps": 4, "perturbations": 3}, HALF),
    "fzoos": (FZOOS, TWO, {}),
    "fzoos-to-the-last-step": ({**FZOOS, "query_after_last_step": True}, TWO, HALF),
    "fzoos-one-exchange": ({**FZOOS, "global_active_queries": 0}, {**TWO, "exchanges": 1}, {}),
    "fzoos-safeguard": (FZOOS, {"kind": "safeguard", "inner": TWO}, {}),
    "fedzo": (DIFFERENCES, {"kind": "fedavg"}, HALF),
    "fedzo-safeguard": ({**DIFFERENCES, "scheme": "central"}, {"kind": "safeguard"}, {}),
    "scaffold1": ({**DIFFERENCES, "method": "scaffold1"}, TWO, {}),
    "dpzero": (DPZERO, {**COMFL, "perturbations": 3}, {"data": DIGITS, "privacy": EXAMPLES}),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_a_task_will_ask_for_is_what_its_reply_has_asked_for(name, monkeypatch: pytest.MonkeyPatch):
    client, aggregator, more = WORKS[name]
    planned, made = [], Core.outcome

    def watched(core, flight, status, weight):
        planned.append(flight.queries)
        return made(core, flight, status, weight)

    monkeypatch.setattr(Core, "outcome", watched)
    run = Quick(client, aggregator, steps=6, **more)
    assert planned == [row["queries"] for row in run.updates] and min(planned) > 0
    assert run.rounds[-1]["queries"] == sum(planned)


@pytest.mark.parametrize(
    ("client", "aggregator", "each"),
    [
        (SPSA, {**COMFL, "perturbations": 3}, 6),
        (SPSA, {"kind": "one_byte", "count": 2}, 4),
        (DIFFERENCES, {"kind": "fedbuff"}, 1 + 3 * 5),
        (FZOOS, {"kind": "fedbuff"}, 1 + 3 + 5 * 2),
    ],
    ids=["decomfl", "one_byte", "fedzo", "fzoos"],
)
def test_a_rejected_reply_has_cost_its_queries_and_bytes(client, aggregator, each):
    run = Quick(client, {**aggregator, "buffer_size": 1, "max_staleness": 1}, steps=30, **STREAM)
    rejected = [row for row in run.updates if row["status"] == "rejected"]
    assert len(rejected) > 3 and {row["queries"] for row in rejected} <= {each, each + 10}
    last = run.rounds[-1]
    for name in ("queries", "uplink_bytes"):
        assert last[name] == sum(row[name] for row in run.updates)


def test_a_rejected_reply_leaves_no_state_behind():
    """Every client's log holds the queries of its used replies only, also if it was asked again after a rejection."""
    run = Quick(FZOOS, {"kind": "fedbuff", "buffer_size": 1, "max_staleness": 1}, steps=30, **STREAM)
    used = [(row["client_id"], row["queries"]) for row in run.updates if row["status"] == "admitted"]
    for client in range(N):
        log = run.parts.computation.states.get(client)["values"]
        assert len(log) == sum(queries for who, queries in used if who == client)


def test_cancelled_work_has_cost_neither():
    """Of three clients asked the first reply closes the round; the others have sent nothing."""
    run = Quick(
        SPSA, COMFL, steps=5, sampling={"kind": "fixed", "cohort_size": 1, "over_selection": 3.0},
        devices={"compute": {"kind": "half_normal"}},
    )  # fmt: skip
    cancelled = [row for row in run.updates if row["status"] == "rejected"]
    assert cancelled and all(row["uplink_bytes"] == 0 and not row.get("queries") for row in cancelled)
    assert run.rounds[-1]["queries"] == 2 * 5
