"""The stop: what may be released next, asked of tallies that whole runs seldom reach."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedopt.privacy.accounting import PrivacyAccounting
from fedopt.privacy.base import Tally
from fedopt.privacy.mechanisms.dp_sgd import DpSgd
from fedopt.privacy.plan import plan
from fedopt.privacy.public_facts import public_of
from scenarios import small

DATA: dict[str, Any] = {"kind": "digits", "clients": 12, "public": ["num_examples"]}
STREAM: dict[str, Any] = {
    "sampling": {"kind": "uniform", "concurrency": 6},
    "aggregator": {"kind": "fedbuff", "buffer_size": 3},
}
IN_CLIENTS: dict[str, Any] = {"client": {"kind": "dp_sgd", "steps": 2, "batch_size": 10}, "data": DATA}
RESTARTS: dict[str, Any] = {
    "client": {"kind": "gradient_difference"},
    "sampling": {"kind": "all"},
    "aggregator": {"kind": "diff2", "restart_every": 1},
    "data": DATA,
}


def accounting_of(mechanism: dict[str, Any], changes: dict[str, Any], top: dict[str, Any]) -> PrivacyAccounting:
    scenario = small(privacy={"mechanism": mechanism, "target_epsilon": 4.0, **changes}, **top)
    public = public_of(scenario)
    assert public is not None
    return plan(scenario, public).accounting


@pytest.mark.parametrize(
    "mechanism, changes, top",
    [
        ({"kind": "local_gaussian"}, {"trust": "local", "relation": "replace_one", "max_participations": 9}, STREAM),
        (
            {"kind": "diff2", "noise": "local"},
            {"unit": "example", "trust": "local", "relation": "replace_one"},
            RESTARTS,
        ),
        ({"kind": "dp_sgd"}, {"unit": "example"}, IN_CLIENTS),
    ],
    ids=["local_gaussian", "diff2", "dp_sgd"],
)
def test_replies_that_no_release_used_leave_less_than_was_planned(mechanism, changes, top):
    """A client that has paid as often as there are steps, some of it in vain, must not pay once more."""
    accounting, tally = accounting_of(mechanism, changes, top), Tally()
    made, public = accounting.mechanism, accounting.public
    events = made.next_events(made.init(650, public), public)
    for paid in range(accounting.releases):
        assert accounting(SimpleNamespace(tally=tally), events) is None, paid
        tally.record(made.reply_events(made.init(650, public), public), [0])
        tally.local_steps[0] = 2 * (paid + 1)
    reason = accounting(SimpleNamespace(tally=tally), events)
    assert reason is not None and "would exceed target_epsilon = 4" in reason


def test_a_run_within_its_plan_composes_no_ledgers_of_clients(monkeypatch):
    """The stop is asked at every step, and there may be many clients; work is counted, not time."""
    accounting = accounting_of({"kind": "dp_sgd"}, {"unit": "example"}, IN_CLIENTS)
    begun = SimpleNamespace(tally=Tally(local_steps={3: 2, 5: 4}))
    assert accounting(begun, ()) is None
    monkeypatch.setattr(DpSgd, "step_event", lambda *asked: pytest.fail("a ledger was composed"))
    assert accounting(begun, ()) is None


@pytest.mark.parametrize("limits", [{"target_epsilon": 4.0, "max_epsilon": 2.0}, {"target_epsilon": 2.0}])
def test_the_smaller_limit_counts(limits):
    accounting = accounting_of({"kind": "gaussian"}, {**limits, "max_participations": 3}, {})
    name = min(limits, key=limits.__getitem__)
    assert accounting.privacy.epsilon_limit() == (name, 2.0)
