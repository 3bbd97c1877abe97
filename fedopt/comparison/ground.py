"""Epsilons on common ground: what an epsilon means, and the same run accounted under another relation or delta.

Two epsilons may share an axis only if they bound the same thing: the same unit, relation, delta and supposed
population. Who is trusted is told apart inside a plot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedopt.privacy.events import AccountingError, Relation

# With at most one example each, hiding a client is hiding an example.
RECORD = "example"


@dataclass(frozen=True)
class Ground:
    """What an epsilon is a statement about.

    Args:
        unit: ``client`` or ``example``; a client that holds at most one example is one.
        relation: neighbouring relation.
        delta: of (epsilon, delta).
        hypothetical: supposed population, or None.
    """

    unit: str
    relation: str
    delta: float
    hypothetical: int | None = None

    @property
    def label(self) -> str:
        """For people."""
        supposed = f", HYPOTHETICAL population {self.hypothetical}" if self.hypothetical is not None else ""
        return f"unit {self.unit}, {self.relation}, delta {self.delta:g}{supposed}"


@dataclass(frozen=True)
class Claim:
    """One run's epsilon on its ground, and how it got there.

    Args:
        epsilon: None if nothing finite can be said.
        ground: what it is a statement about.
        trust: who is trusted before noise is added.
        accountant: who computed it.
        unit: as the run names it.
        remark: how it differs from what the run claims, or why it does not; empty if it is the run's own.
    """

    epsilon: float | None
    ground: Ground
    trust: str
    accountant: str
    unit: str = ""
    remark: str = ""


def claim_of(
    document: Mapping[str, Any], relation: Relation | None, delta: float | None, single_records: bool
) -> Claim:
    """The epsilon of a run, accounted again where another relation or delta is asked for.

    Args:
        document: ``privacy.json``.
        relation, delta: wanted; None keeps the run's own.
        single_records: whether every client holds at most one example.
    Returns:
        On the wanted ground if the events have a bound there; else the run's own claim with the reason as remark.
    """
    own = Ground(
        _unit(document, single_records),
        document["relation"],
        document["delta"],
        document.get("hypothetical_population"),
    )
    claim = Claim(
        _finite(document["epsilon"]), own, document["trust"], document["epsilon_accountant"], document["unit"]
    )
    wanted = replace(own, relation=relation or own.relation, delta=delta or own.delta)
    if wanted == own:
        return claim
    try:
        epsilon = _accounted(document, wanted)
    except AccountingError as error:
        return replace(claim, remark=f"not accounted under {wanted.relation} at delta {wanted.delta:g}: {error}")
    remark = f"accounted again: {own.relation} at delta {own.delta:g} gave {_shown(claim.epsilon)}"
    return replace(claim, epsilon=_finite(epsilon), ground=wanted, remark=remark)


def _unit(document: Mapping[str, Any], single_records: bool) -> str:
    return RECORD if single_records else str(document["unit"])


def _accounted(document: Mapping[str, Any], ground: Ground) -> float:
    from fedopt.components import component
    from fedopt.privacy.ledger import charged_events

    judge: Any = component("fedopt.privacy.accountants", document["epsilon_accountant"])()
    found = [judge.epsilon(events, ground.delta, ground.relation) for events in charged_events(document)]
    return float(max(found, default=0.0))


def _finite(epsilon: float | None) -> float | None:
    return epsilon if epsilon is not None and math.isfinite(epsilon) else None


def _shown(epsilon: float | None) -> str:
    return "no finite epsilon" if epsilon is None else f"epsilon {epsilon:.4g}"


def why_apart(grounds: list[Ground], trusts: list[str]) -> list[str]:
    """Why epsilons are drawn apart, one sentence each; empty if nothing had to be."""
    found = []
    if len(set(grounds)) > 1:
        differing = [
            name
            for name, values in (
                ("unit", {g.unit for g in grounds}),
                ("relation", {g.relation for g in grounds}),
                ("delta", {g.delta for g in grounds}),
                ("supposed population", {g.hypothetical for g in grounds}),
            )
            if len(values) > 1
        ]
        found.append(
            f"The runs differ in {', '.join(differing)}: their epsilons bound different things, so they are drawn in "
            "separate panels and must not be compared as numbers. `relation: replace_one` and `delta:` in the "
            "comparison account all runs on common ground where a proof exists."
        )
    if len(set(trusts)) > 1:
        found.append(
            f"The runs differ in whom they trust ({', '.join(sorted(set(trusts)))}): the same epsilon protects against "
            "different adversaries. They share a panel with different line styles and the trust model in the legend."
        )
    return found
