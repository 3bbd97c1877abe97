"""``privacy.json``: what was released, from whom, under which assumptions, and what it amounts to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fedopt.privacy.client_ledgers import client_profiles
from fedopt.privacy.events import AccountingError, PoissonSampled, Repeated
from fedopt.privacy.profile import as_mapping
from fedopt.privacy.spending import accountant_of
from fedopt.privacy.trade_off import trade_off

if TYPE_CHECKING:
    from fedopt.privacy.accounting import PrivacyAccounting
    from fedopt.privacy.base import Counted


def privacy_document(accounting: PrivacyAccounting, state: Any) -> dict[str, Any]:
    """The ledger of a run as plain data.

    Args:
        accounting: the run's accounting.
        state: the server's state.
    """
    privacy, claim, tally = accounting.privacy, accounting.claim, state.tally
    epsilon, profiles = accounting.exact(tally), accounting.profiles(tally)
    body = {
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "delta": privacy.delta,
        "epsilon_accountant": privacy.accountant,
        "unit": privacy.unit,
        "relation": privacy.relation,
        "trust": privacy.trust,
        "mechanism": {"kind": accounting.mechanism.kind(), **accounting.mechanism.model_dump()},
        "sampling": _sampling(accounting, profiles),
        "max_participations": privacy.max_participations,
        "hypothetical_population": privacy.hypothetical_population,
        "population": accounting.public.num_clients,
        "charged": [as_mapping(profile) for profile in profiles],
        "releases": [
            {"events": [event.to_dict() for event in events], "count": count, "most_of_one_client": most}
            for events, count, most in zip(tally.events, tally.releases, tally.most, strict=True)
        ],
        # Under Poisson sampling who took part must stay hidden.
        "participations": None
        if claim.kind == "poisson"
        else {str(client): count for client, count in sorted(state.participations.items())},
        "assumptions": assumptions(accounting),
    }
    limits = _trade_off(accounting, tally)
    if limits is not None:
        body["tradeoff"] = limits
    if accounting.mechanism.client_ledgers:
        body["clients"] = _clients(accounting, state)
    return body


def _sampling(accounting: PrivacyAccounting, profiles: list[Counted]) -> dict[str, Any]:
    """The sampling that epsilon rests on: of clients, or of examples inside them where each has its own ledger."""
    claim, kind = accounting.claim, accounting.scenario.sampling.kind()
    if not accounting.mechanism.client_ledgers:
        amplification, probability = ("poisson" if claim.kind == "poisson" else "none"), accounting.probability
    else:
        kind = "batches of examples in the clients"
        rates = [event.probability for profile in profiles for event, _ in profile if isinstance(event, PoissonSampled)]
        probability = max(rates, default=1.0)
        amplification = "poisson" if rates else "none"
    return {
        "kind": kind,
        "amplification": amplification,
        "sampling_probability": probability,
        "min_separation": claim.min_separation,
    }


def _trade_off(accounting: PrivacyAccounting, tally: Any) -> dict[str, Any] | None:
    """What the worst ledger allows an attacker, from its whole curve by pld; None where there is no finite curve."""
    privacy, profiles = accounting.privacy, accounting.profiles(tally)
    spent = [accounting.spending.exact(profile) for profile in profiles]
    if not spent or not 0 < max(spent) < math.inf:
        return None
    events = [Repeated(event, count) for event, count in profiles[spent.index(max(spent))]]
    try:
        found = trade_off(events, privacy.relation, accountant_of("pld"))  # the tighter curve, whoever stops the run
    except AccountingError:
        return None
    return {"advantage": found.advantage, "true_positive_rate_at_1_percent": found.true_positive_rate}


def _clients(accounting: PrivacyAccounting, state: Any) -> list[dict[str, Any]]:
    spent = accounting.client_epsilons(state)
    exact = client_profiles(state.tally, accounting.mechanism, accounting.public, accounting.scenario)
    return [
        {
            "client": i,
            "epsilon": spent[i] if math.isfinite(spent[i]) else None,
            "charged": as_mapping(profile),
        }
        for i, profile in exact.items()
    ]


def assumptions(accounting: PrivacyAccounting) -> list[str]:
    """What the number rests on, one sentence each."""
    privacy, claim = accounting.privacy, accounting.claim
    seen = {
        "central": "The server sees every contribution; the guarantee is against everybody who sees its releases.",
        "local": "Nobody is trusted: the guarantee is against the server too.",
        "shuffle": "A trusted shuffler hides who sent what, and every client that is counted follows the protocol; the "
        "guarantee is against the server.",
        "distributed": "Secure aggregation shows the server the sum only; every client that is counted added its share "
        "of the noise honestly.",
    }
    charge = (
        f"Every release is amplified by Poisson sampling with probability {accounting.probability:g}; the cohorts stay "
        "hidden."
        if claim.kind == "poisson"
        else "No amplification by sampling is claimed: a client is charged in full for every release it was part of."
    )
    found = [seen[privacy.trust], charge]
    if accounting.mechanism.client_ledgers:
        found[1] = (
            "Every client keeps its own ledger over its local steps; clients hold disjoint data, so the largest "
            "counts. The sampling of clients is not used."
        )
    if privacy.relation != "add_or_remove_one":
        found.append("The schedule, the durations, the weights and the population are public.")
    if getattr(accounting.scenario.data, "standardize", False):
        found.append("The means and deviations that standardise the inputs are public, as data.public declares.")
    if privacy.hypothetical_population is not None:
        found.append(f"HYPOTHETICAL: accounted as if there were {privacy.hypothetical_population} clients.")
    found.append(
        "Noise is made in floating point, from named seeded streams in a simulation and from the operating system in a "
        "deployment; columns marked simulator_only and anything else published besides the releases are not covered."
    )
    return found
