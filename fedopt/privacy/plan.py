"""From a scenario to a calibrated mechanism and its accounting: one accountant for noise, stop and report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fedopt.privacy.accounting import PrivacyAccounting
from fedopt.privacy.base import Counted, Mechanism
from fedopt.sampling.base import SamplingClaim
from fedopt.types import Public

if TYPE_CHECKING:
    from fedopt.scenario import Scenario


class Plan(NamedTuple):
    """What a run needs of its privacy section.

    Args:
        mechanism: with its noise set.
        accounting: charges releases, stops at ``max_epsilon``, writes ``privacy.json``.
        warnings: what the user must know, one sentence each.
    """

    mechanism: Mechanism
    accounting: PrivacyAccounting
    warnings: tuple[str, ...]


def plan(scenario: Scenario, public: Public) -> Plan:
    """Calibrate the mechanism where noise was left open, and set up the accounting. No torch.

    Args:
        scenario: a checked scenario with privacy.
        public: public constants; ``dimension`` is needed by mechanisms whose noise depends on it.
    Raises:
        ValueError: no bound exists, or the target cannot be reached; says what to change.
    """
    privacy = scenario.privacy
    assert privacy is not None
    claim = sampling_claim(scenario, public)
    mechanism = privacy.mechanism.prepared(scenario, public)
    releases, participations = planned_counts(scenario, claim)
    if mechanism.noise_level() is None:
        mechanism = calibrated(mechanism, scenario, public, claim)
    accounting = PrivacyAccounting(scenario, mechanism, claim, public, releases, participations)
    return Plan(mechanism, accounting, warnings_of(scenario, public))


def is_streaming(scenario: Scenario, public: Public) -> bool:
    """Whether the aggregator keeps clients in flight instead of running rounds."""
    return scenario.aggregator.plan(None, public).pacing == "stream"


def sampling_claim(scenario: Scenario, public: Public) -> SamplingClaim:
    """The amplification that counts for the privacy unit.

    Only a client-level unit is amplified by sampling clients: a client's records arrive together, so their presence can
    be seen from the others. A hypothetical population lowers the probability in proportion.
    """
    privacy = scenario.privacy
    assert privacy is not None
    claim = scenario.sampling.claim(public.num_clients, is_streaming(scenario, public))
    if claim.kind == "poisson" and privacy.unit != "client":
        return SamplingClaim("none")
    if claim.kind == "poisson" and privacy.hypothetical_population is not None:
        factor = public.num_clients / privacy.hypothetical_population
        return claim._replace(probability=min(1.0, claim.probability * factor))
    return claim


def planned_counts(scenario: Scenario, claim: SamplingClaim) -> tuple[int | None, int | None]:
    """(releases of the run, releases one client can be part of); None where the scenario does not say."""
    privacy, releases = scenario.privacy, scenario.run.server_steps
    assert privacy is not None
    if claim.kind == "poisson":
        return releases, releases
    limits = [releases, privacy.max_participations]
    if claim.min_separation is not None and releases is not None:
        limits.append(math.ceil(releases / claim.min_separation))
    known = [limit for limit in limits if limit is not None]
    return releases, min(known) if known else None


def calibrated(mechanism: Mechanism, scenario: Scenario, public: Public, claim: SamplingClaim) -> Mechanism:
    """The mechanism with the least noise that meets ``privacy.target_epsilon`` after the planned run.

    Raises:
        ValueError: the run has no planned length, or no noise reaches the target.
    """
    from fedopt.privacy.calibrate import calibrate
    from fedopt.privacy.events import Repeated
    from fedopt.privacy.spending import accountant_of, epsilon_of

    privacy = scenario.privacy
    assert privacy is not None
    if privacy.target_epsilon is None:
        raise ValueError("the mechanism's noise is not set; give it, or privacy.target_epsilon to calibrate it")
    releases, participations = planned_counts(scenario, claim)
    if participations is None:
        raise ValueError("privacy.target_epsilon needs a planned length: set run.server_steps or max_participations")
    length = releases if releases is not None else participations
    target, accountant = privacy.target_epsilon, accountant_of(privacy.accountant)

    def profiles_at(level: float) -> list[Counted]:
        candidate = mechanism.with_noise_level(level, length, scenario)
        planned = PrivacyAccounting(scenario, candidate, claim, public, releases, participations).planned_profiles()
        return planned or [()]  # nobody makes a step

    def level_for(ledger: int) -> float:
        return calibrate(
            lambda level: [Repeated(event, count) for event, count in profiles_at(level)[ledger]],
            target,
            privacy.delta,
            privacy.relation,
            accountant,
        ).noise_multiplier

    # Which client's ledger is the worst hardly depends on the noise: calibrate for one, check all, correct.
    worst, level = 0, 0.0
    while True:
        level = max(level, level_for(worst))
        spent = [epsilon_of(found, privacy.relation, privacy.delta, privacy.accountant) for found in profiles_at(level)]
        worst = spent.index(max(spent))
        if spent[worst] <= target:
            return mechanism.with_noise_level(level, length, scenario)


def warnings_of(scenario: Scenario, public: Public) -> tuple[str, ...]:
    """What the user must know of a privacy section, one sentence each; needs no calibration."""
    privacy, claim = scenario.privacy, sampling_claim(scenario, public)
    assert privacy is not None
    found = []
    amplifies = privacy.trust == "central" and claim.kind == "none" and privacy.unit == "client"
    if amplifies and public.expected_cohort < public.num_clients:
        found.append(
            f"sampling {scenario.sampling.kind()} is accounted without amplification (sampling_probability = 1); "
            "sampling: poisson under round pacing gives a smaller epsilon"
        )
    if privacy.hypothetical_population is not None:
        found.append(
            f"epsilon is for a hypothetical population of {privacy.hypothetical_population} clients, not for the "
            f"{public.num_clients} simulated ones"
        )
    population = privacy.hypothetical_population or public.num_clients
    if privacy.delta * population > 1 and privacy.unit == "client":
        found.append(
            f"delta = {privacy.delta:g} is above 1 / population = {1 / population:.2g}: publishing one client's data "
            "at random would satisfy it; use a smaller delta"
        )
    return tuple(found)
