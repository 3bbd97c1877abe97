"""An outsider recomputes epsilon from privacy.json alone."""

from __future__ import annotations

import json
import math

import pytest

from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.events import GaussianEvent, NonPrivateEvent, PoissonSampled, Repeated
from fedopt.privacy.ledger import recompute, trade_off_of
from fedopt.privacy.releases import AccountingError


def document(*ledgers, epsilon, **other):
    charged = [[{"event": event.to_dict(), "count": count} for event, count in ledger] for ledger in ledgers]
    return {
        "epsilon": epsilon,
        "delta": 1e-5,
        "epsilon_accountant": "pld",
        "unit": "client",
        "relation": "zero_out_one",
        "trust": "central",
        "charged": charged,
        **other,
    }


def test_epsilon_is_recomputed_from_the_file(tmp_path):
    event = PoissonSampled(0.1, GaussianEvent(1.0))
    claimed = Pld().epsilon(Repeated(event, 20), 1e-5, "zero_out_one")
    path = tmp_path / "privacy.json"
    path.write_text(json.dumps(document([(event, 20)], epsilon=claimed)))
    found = recompute(path)
    assert found.epsilon == claimed and found.agrees and found.accountant == "pld"
    assert recompute(path, accountant="rdp").epsilon > claimed
    assert trade_off_of(path).advantage > 0


def test_the_worst_ledger_counts_and_a_false_claim_shows():
    honest = document([(GaussianEvent(2.0), 1)], [(GaussianEvent(2.0), 4)], epsilon=4.377178)
    assert recompute(honest).agrees
    lying = document([(GaussianEvent(2.0), 8)], epsilon=4.377178)
    assert not recompute(lying).agrees


def test_infinite_and_empty_ledgers():
    assert recompute(document([(NonPrivateEvent("raw"), 1)], epsilon=None)).epsilon == math.inf
    empty = recompute(document(epsilon=0.0))
    assert empty.epsilon == 0.0 and empty.agrees


def test_what_is_missing_is_named():
    body = document(epsilon=1.0)
    del body["relation"], body["delta"]
    with pytest.raises(AccountingError, match="lacks delta, relation, so epsilon cannot be recomputed"):
        recompute(body)
    with pytest.raises(AccountingError, match="unknown event kind 'magic'"):
        recompute({**document(epsilon=1.0), "charged": [[{"event": {"kind": "magic"}, "count": 1}]]})
