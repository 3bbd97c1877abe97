"""Reading a run's ``privacy.json`` as an outsider: recompute epsilon from the events alone, without the run.

The file names unit, relation, trust, sampling, delta and accountant, and lists under ``charged`` the ledgers whose
largest epsilon is the run's: each a list of events with counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedopt.components import component
from fedopt.privacy.accountants.base import Accountant
from fedopt.privacy.events import AccountingError, Event, Repeated, from_dict
from fedopt.privacy.trade_off import TradeOff, trade_off


class Recomputed(NamedTuple):
    """What an outsider finds, next to what the file claims."""

    epsilon: float
    claimed: float
    delta: float
    accountant: str

    @property
    def agrees(self) -> bool:
        """Whether both are the same to one part in a thousand (or both infinite)."""
        return self.epsilon == self.claimed or abs(self.epsilon - self.claimed) <= 1e-3 * max(self.epsilon, 1e-3)


def read(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """The document, from a path or as given.

    Raises:
        AccountingError: something an outsider needs is missing; names it.
    """
    document = json.loads(Path(source).read_text()) if isinstance(source, (str, Path)) else source
    needed = ("charged", "delta", "relation", "unit", "trust", "epsilon_accountant", "epsilon")
    missing = [key for key in needed if key not in document]
    if missing:
        raise AccountingError(f"privacy.json lacks {', '.join(missing)}, so epsilon cannot be recomputed from it")
    return document  # type: ignore[no-any-return]


def charged_events(document: Mapping[str, Any]) -> list[list[Event]]:
    """The ledgers of the document, each as events with their counts.

    Raises:
        AccountingError: unknown event kind or malformed entry.
    """
    return [[Repeated(from_dict(item["event"]), int(item["count"])) for item in one] for one in document["charged"]]


def recompute(source: str | Path | Mapping[str, Any], accountant: str | None = None) -> Recomputed:
    """Epsilon of a run from its ``privacy.json``.

    Args:
        source: path or parsed document.
        accountant: another accountant than the file's, as a second opinion.
    """
    document = read(source)
    kind = accountant or document["epsilon_accountant"]
    judge = _accountant(kind)
    found = [judge.epsilon(events, document["delta"], document["relation"]) for events in charged_events(document)]
    claimed = document["epsilon"]
    return Recomputed(
        max(found, default=0.0), float("inf") if claimed is None else float(claimed), document["delta"], kind
    )


def trade_off_of(source: str | Path | Mapping[str, Any], false_positive_rate: float = 0.01) -> TradeOff:
    """The attacker's limits for the worst ledger of a ``privacy.json``, from its curve by ``pld``."""
    document = read(source)
    judge = _accountant("pld")
    limits = [
        trade_off(events, document["relation"], judge, false_positive_rate) for events in charged_events(document)
    ]
    if not limits:
        return TradeOff(0.0, false_positive_rate, false_positive_rate)
    return max(limits, key=lambda limit: limit.true_positive_rate)


def _accountant(kind: str) -> Accountant:
    made = component("fedopt.privacy.accountants", kind)()
    assert isinstance(made, Accountant)
    return made
