"""Queries end to end: of every kind of work, and of replies that are not used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from zeroth_order_runs import COMFL, DIFFERENCES, DIGITS, FZOOS, LOGGED, SPSA, STREAM, TWO, N, Quick

from fedopt.clients import _black_box
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


ASKED: dict[str, tuple[Any, Any]] = {
    **{f"decomfl-{scheme}": ({**SPSA, "scheme": scheme}, {**COMFL, "local_steps": 3, "perturbations": 2})
       for scheme in ("central", "forward", "jvp")},
    **{f"scaffold1-{scheme}": ({**DIFFERENCES, "method": "scaffold1", "scheme": scheme}, TWO)
       for scheme in ("central", "forward", "one_point", "jvp")},
    "one_byte": (SPSA, {"kind": "one_byte", "count": 3}),
    "feedsign": (SPSA, {"kind": "feedsign", "step_size": 0.01}),
    "fedkseed": ({"kind": "fedkseed", "steps": 5}, {"kind": "fedkseed", "candidates": 8, "step_size": 0.003}),
    "fzoos-safeguard": (FZOOS, {"kind": "safeguard", "inner": TWO}),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_every_value_that_is_asked_for_is_counted(name, monkeypatch: pytest.MonkeyPatch):
    asked, whole = [0], _black_box.objective_values

    def watched(*arguments):
        values = whole(*arguments)

        def counted(points):
            found = values(points)
            asked[0] += found.shape[0] * found.shape[1]
            return found

        return counted

    monkeypatch.setattr(_black_box, "objective_values", watched)
    run = Quick(*ASKED[name], steps=6)
    assert run.rounds[-1]["queries"] == asked[0] > 0


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


@pytest.mark.parametrize("name", ["decomfl", "one_byte", "fedkseed", "scaffold1", "scaffold2", "fedzo", "fzoos"])
def test_tasks_cut_short_by_different_amounts_are_those_of_one_client_at_a_time(name):
    """Rows of a batch do unequally many steps; each keeps its own function, correction and directions."""
    client, aggregator, _ = {
        **WORKS,
        "decomfl": (SPSA, {**COMFL, "local_steps": 4, "perturbations": 2}, {}),
        "one_byte": (SPSA, {"kind": "one_byte", "count": 5, "step_size": 0.01}, {}),
        "scaffold2": ({**DIFFERENCES, "method": "scaffold2"}, {"kind": "scaffold"}, {}),
    }[name]
    unequal = {"devices": {"work": {"kind": "fixed_fraction", "low": 0.3, "high": 1.0}}, "steps": 6}
    alone = {**unequal, "engine": {"device": "cpu", "threads": 1, "chunk": 1}}
    together, single = (Quick(client, aggregator, **more) for more in (unequal, alone))
    assert len({row["local_steps"] for row in together.updates if row["phase"] != "correction"}) > 1
    torch.testing.assert_close(together.params, single.params, rtol=1e-3, atol=1e-5)
    assert [row["queries"] for row in together.updates] == [row["queries"] for row in single.updates]
