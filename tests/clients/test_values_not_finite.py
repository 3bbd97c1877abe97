"""A function value that is NaN or infinite fails the reply of its client, and changes nothing for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from zeroth_order_runs import COMFL, DIFFERENCES, FZOOS, TWO, N, scenario

from fedopt.clients import _black_box
from fedopt.simulation.assembly import assemble
from fedopt.simulation.simulator import Simulator

BAD = 2
METHODS: dict[str, tuple[Any, Any]] = {
    "fzoos": (FZOOS, TWO),
    "fzoos-paper": ({**FZOOS, "variant": "paper"}, TWO),
    "fzoos-one-exchange": ({**FZOOS, "global_active_queries": 0, "lengthscales": [5.0, 1.0]}, {**TWO, "exchanges": 1}),
    "fedzo": (DIFFERENCES, {"kind": "fedavg"}),
    "scaffold1": ({**DIFFERENCES, "method": "scaffold1"}, TWO),
    "decomfl": ({"kind": "spsa"}, {**COMFL, "perturbations": 3, "local_steps": 2}),
    "feedsign": ({"kind": "spsa"}, {"kind": "feedsign", "step_size": 0.01}),
    "fedkseed": ({"kind": "fedkseed", "steps": 5}, {"kind": "fedkseed", "candidates": 8, "step_size": 0.003}),
    "one_byte": ({"kind": "spsa"}, {"kind": "one_byte", "count": 2}),
}
Change = Callable[[torch.Tensor], torch.Tensor]
CHANGES: dict[str, Change] = {
    "nan": lambda found: found * torch.nan,
    "infinite": lambda found: found - torch.inf,
    "first of a call": lambda found: torch.cat((found[:1] * torch.nan, found[1:])),
}


def ended(client: Any, aggregator: Any, wrapped: Callable[[Any], Any] = lambda work: work, steps: int = 8) -> Any:
    """Final parameters, and (client, version, status) of every reply."""
    parts = assemble(scenario(client, aggregator, steps))
    parts.computation.work = wrapped(parts.computation.work)
    rows: list[dict[str, Any]] = []
    simulator = Simulator(
        parts.server, parts.computation, parts.clock, lambda n: n, lambda stepped, metrics: None, rows.append
    )
    assert simulator.run().status == "finished"
    states = {c: parts.computation.states.get(c) for c in range(N)} if parts.computation.states.names else {}
    return parts.server.state.method.params, [(row["client_id"], row["version"], row["status"]) for row in rows], states


class Spoilt:
    """Work whose replies of one client are spoilt after everything was measured as it should be."""

    def __init__(self, work: Any):
        self.work_itself = work

    def __getattr__(self, name: str) -> Any:
        return getattr(self.work_itself, name)

    def work(self, cohort: Any, engine: Any) -> Any:
        reply = self.work_itself.work(cohort, engine)
        bad = torch.tensor([client == BAD for client in cohort.clients])[:, None]
        parts = {name: type(part)(part.rows().masked_fill(bad, torch.nan)) for name, part in reply.parts.items()}
        return replace(reply, parts=parts)


def spoil(monkeypatch: pytest.MonkeyPatch, change: Change, when: Callable[[int], bool] = lambda call: True) -> None:
    """Change the values of the client, in those of its calls."""
    made, calls = _black_box.objective_values, []

    def objective_values(cohort: Any, engine: Any, rows: list[int]) -> Any:
        values, bad = made(cohort, engine, rows), [i for i, row in enumerate(rows) if cohort.clients[row] == BAD]

        def spoilt(points: torch.Tensor) -> torch.Tensor:
            found = values(points).clone()
            for row in bad:
                calls.append(row)
                if when(len(calls)):
                    found[row] = change(found[row])
            return found

        return spoilt

    monkeypatch.setattr(_black_box, "objective_values", objective_values)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", METHODS)
def test_the_others_have_the_bits_of_a_run_whose_reply_was_lost(name, change, monkeypatch: pytest.MonkeyPatch):
    wanted = ended(*METHODS[name], wrapped=Spoilt)
    spoil(monkeypatch, CHANGES[change])
    params, rows, states = ended(*METHODS[name])
    assert torch.equal(params, wanted[0]) and torch.isfinite(params).all() and rows == wanted[1]
    assert {status for client, _, status in rows if client == BAD} == {"failed"}
    assert {status for client, _, status in rows if client != BAD} == {"admitted"}
    for client, kept in states.items():
        assert all(torch.equal(value, wanted[2][client][part]) for part, value in kept.items()), client


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e308])
@pytest.mark.parametrize("call", range(1, 9))
@pytest.mark.parametrize("name", ["fzoos", "fzoos-one-exchange"])
def test_a_single_bad_value_fails_one_reply_and_is_not_logged(name, call, value, monkeypatch: pytest.MonkeyPatch):
    """Whichever of the queries it is: initial, at the points, or active. 1e308 and -1e308 are further apart than any
    number."""
    spoil(monkeypatch, lambda found: found * 0 + value * (-1) ** torch.arange(len(found)), when=lambda n: n == call)
    params, rows, states = ended(*METHODS[name])
    failed = [(client, version) for client, version, status in rows if status == "failed"]
    assert torch.isfinite(params).all() and len(failed) <= 1 and all(client == BAD for client, _ in failed)
    assert failed or value == 1e308
    assert all(state["values"].isfinite().all() for state in states.values())
