"""Checks between privacy and the rest of a scenario, before anything runs: what nobody can bound is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from fedopt.components import components
from fedopt.privacy.base import Mechanism, NeedsDimension
from fedopt.privacy.events import require_relation
from fedopt.privacy.public_facts import private_statistics, public_of
from fedopt.privacy.public_schedule import private_durations, private_presence, times_decide
from fedopt.privacy.releases import AccountingError
from fedopt.problems import Problem
from fedopt.types import Public

if TYPE_CHECKING:
    from fedopt.privacy.releases import Event
    from fedopt.scenario import Scenario

Path = tuple[str | int, ...]
Found = Iterator[tuple[Path, str]]


def problems_of(scenario: Scenario) -> list[Problem]:
    """Every problem of the combination, with what to do instead; empty without privacy. No torch."""
    if scenario.privacy is None:
        return [Problem(path=path, message=message) for path, message in _without_privacy(scenario)]
    found: list[tuple[Path, str]] = []
    for check in CHECKS:
        found.extend(check(scenario))
    if not found:  # parts that do not belong together have no events to look at
        found.extend(_events_have_a_bound(scenario))
    return [Problem(path=path, message=message) for path, message in dict.fromkeys(found)]


def _without_privacy(scenario: Scenario) -> Found:
    if scenario.audit is not None:
        yield ("audit",), "there is no privacy section, so there is no claim to audit; add one or leave audit out"
    plain = {"dp_sgd": "sgd", "dp_spsa": "spsa"}.get(scenario.client.kind())
    if plain is not None:
        yield (
            ("client", "kind"),
            f"{scenario.client.kind()} clips and adds noise only under a privacy section; add privacy with unit: "
            f"example and mechanism: {{kind: dp_sgd}}, or use client: {{kind: {plain}}}",
        )


def _fits_mechanism(scenario: Scenario) -> Found:
    privacy = scenario.privacy
    assert privacy is not None
    mechanism, kind = privacy.mechanism, privacy.mechanism.kind()
    if privacy.trust not in mechanism.trusts:
        allowed, known = " or ".join(mechanism.trusts), components("fedopt.privacy.mechanisms").items()
        others = [name for name, made in known if privacy.trust in getattr(made, "trusts", ())]
        yield (
            ("privacy", "trust"),
            f"is {privacy.trust}, but mechanism {kind} protects under trust: {allowed}; use that, or mechanism: "
            f"{' or '.join(others)}",
        )
    if privacy.unit not in mechanism.units:
        allowed = " or ".join(mechanism.units)
        remedy = "; use mechanism: {kind: dp_sgd} for examples" if privacy.unit == "example" else ""
        yield ("privacy", "unit"), f"is {privacy.unit}, but mechanism {kind} protects unit: {allowed}{remedy}"
    for message in mechanism.problems(scenario):
        yield ("privacy", "mechanism"), message


def _noise_is_decided_once(scenario: Scenario) -> Found:
    privacy = scenario.privacy
    assert privacy is not None
    given = privacy.mechanism.noise_level() is not None
    if given and privacy.target_epsilon is not None:
        yield (
            ("privacy", "target_epsilon"),
            "the mechanism's noise is given as well; leave it out to calibrate it, or use max_epsilon to stop",
        )
    if not given and privacy.target_epsilon is None:
        yield ("privacy", "mechanism"), "has no noise; set its noise_multiplier, or privacy.target_epsilon"
    planned = scenario.run.server_steps is not None or privacy.max_participations is not None
    if not given and not planned:
        yield (
            ("privacy", "target_epsilon"),
            "needs a planned length to calibrate for; set run.server_steps or privacy.max_participations",
        )


def _relation_is_possible(scenario: Scenario) -> Found:
    privacy, public = scenario.privacy, public_of(scenario)
    assert privacy is not None
    if public is None:
        return
    streaming = _is_streaming(scenario, public)
    claim = scenario.sampling.claim(public.num_clients, streaming)
    hidden = claim.kind == "poisson"
    if privacy.relation == "add_or_remove_one" and not hidden and (streaming or privacy.unit == "client"):
        why = (
            "removing a client from asynchronous pacing moves every later buffer"
            if streaming
            else f"sampling {scenario.sampling.kind()} has a public number of participants"
        )
        yield (
            ("privacy", "relation"),
            f"add_or_remove_one does not apply: {why}; use relation: zero_out_one, or sampling: poisson in rounds "
            "without a deadline",
        )
    if hidden and privacy.unit == "client":
        yield from _poisson_is_kept(scenario)
    listed = "num_examples" in getattr(scenario.data, "public", ())
    if privacy.relation == "add_or_remove_one" and privacy.unit == "client" and listed:
        yield (
            ("data", "public"),
            "num_examples lists everybody who is there, which add_or_remove_one hides, and moves the sum of all "
            "weights with every client; leave it out, or use relation: zero_out_one",
        )
    if privacy.trust == "local" and privacy.unit == "client" and privacy.relation != "replace_one":
        yield (
            ("privacy", "relation"),
            f"is {privacy.relation}, but under trust: local a reply must hide which of any two inputs it came from; "
            "use relation: replace_one (its epsilon is larger, and is the local one)",
        )
    yield from private_durations(scenario, streaming or times_decide(scenario))
    yield from private_presence(scenario)
    if streaming and privacy.max_participations is None:
        yield (
            ("privacy", "max_participations"),
            "is required under asynchronous pacing: a fast client takes part in many releases; set the most it may",
        )
    if privacy.hypothetical_population is not None and not hidden:
        yield (
            ("privacy", "hypothetical_population"),
            "changes epsilon only through Poisson sampling of clients; use sampling: poisson or leave it out",
        )


def _poisson_is_kept(scenario: Scenario) -> Found:
    privacy, steps = scenario.privacy, scenario.run.server_steps
    assert privacy is not None
    limit = privacy.max_participations
    if limit is not None and (steps is None or limit < steps):
        yield (
            ("privacy", "max_participations"),
            "makes Poisson coins depend on earlier ones, so their amplification does not hold; leave it out, or use "
            "sampling: fixed",
        )
    hiders = {
        ("devices", "availability"): scenario.devices.availability.kind() != "always",
        ("devices", "interrupt"): scenario.devices.interrupt,
        ("run", "time_s"): scenario.run.time_s is not None,
    }
    for path, given in hiders.items():
        if given:
            yield (
                path,
                "lets the length of a round, and so who was drawn for it, decide about later releases: amplification "
                "by Poisson sampling does not hold; leave it out, or use sampling: fixed",
            )
    if privacy.trust in ("local", "distributed", "shuffle"):
        yield (
            ("sampling", "kind"),
            f"poisson claims that the cohort is hidden, but under trust: {privacy.trust} the server sees who takes "
            "part; use sampling: fixed, all or uniform",
        )


def _events_have_a_bound(scenario: Scenario) -> Found:
    from fedopt.privacy.accounting import PrivacyAccounting
    from fedopt.privacy.plan import planned_counts, sampling_claim

    privacy, public = scenario.privacy, public_of(scenario)
    assert privacy is not None
    if public is None:
        return
    claim = sampling_claim(scenario, public)
    releases, participations = planned_counts(scenario, claim)
    length = releases if releases is not None else participations if participations is not None else 1
    try:
        mechanism = privacy.mechanism.prepared(scenario, public)
        if mechanism.noise_level() is None:
            mechanism = mechanism.with_noise_level(1.0, length, scenario)
        accounting = PrivacyAccounting(scenario, mechanism, claim, public, length, participations or 1)
        for profile in accounting.planned_profiles():
            require_relation((event for event, _ in profile), privacy.relation)
            if privacy.accountant == "rdp" and privacy.relation == "replace_one":
                _require_renyi(event for event, _ in profile)
    except AccountingError as error:
        yield ("privacy", "relation"), str(error)
    except NeedsDimension:
        return  # asked again when there is a model
    except ValueError as error:
        yield ("privacy", "mechanism"), str(error)


def _require_renyi(events: Iterable[Event]) -> None:
    """Refuse Poisson sampling under replace_one by the accountant that has no bound for it."""
    from fedopt.privacy.accountants._renyi import renyi
    from fedopt.privacy.events import PoissonSampled

    for event in events:
        if isinstance(event, PoissonSampled):
            renyi(event, "replace_one", 0.0)


def _method_has_a_bound(scenario: Scenario) -> Found:
    privacy, public = scenario.privacy, public_of(scenario)
    assert privacy is not None
    for field in ("weights", "importance"):
        by_examples = getattr(scenario.aggregator, field, None) == "num_examples"
        if by_examples and "num_examples" not in getattr(scenario.data, "public", ()):
            yield (
                ("aggregator", field),
                "num_examples is private, so it cannot weight clients; use uniform, or declare it with "
                "data.public: [num_examples]",
            )
            return
    if public is not None:
        for message in scenario.aggregator.problems(public):
            yield ("aggregator",), message
    if privacy.mechanism.unit_weights:
        staleness = getattr(scenario.aggregator, "staleness", None)
        if staleness is not None and staleness.kind() != "constant":
            yield (
                ("aggregator", "staleness"),
                f"mechanism {privacy.mechanism.kind()} needs every reply to count alike; use staleness: constant",
            )
        if getattr(scenario.aggregator, "weights", "uniform") not in ("uniform", "identical"):
            yield (
                ("aggregator", "weights"),
                f"mechanism {privacy.mechanism.kind()} needs every reply to count alike; use uniform weights",
            )
        elif not scenario.aggregator.weighs_alike():
            yield (
                ("aggregator",),
                f"{scenario.aggregator.kind()} weights replies or splits them over sums, but mechanism "
                f"{privacy.mechanism.kind()} needs one plain sum; use fedavg or fedbuff, or mechanism: gaussian",
            )


def _examples_are_protected(scenario: Scenario) -> Found:
    from fedopt.clients.base import ClientWork

    privacy = scenario.privacy
    assert privacy is not None
    clips = type(scenario.client).protected is not ClientWork.protected
    wanted = type(privacy.mechanism).example_clipping is not Mechanism.example_clipping
    if wanted and not clips:
        yield (
            ("client", "kind"),
            f"{scenario.client.kind()} does not clip per example, which unit: example needs; use client: "
            "{kind: dp_sgd}",
        )
    if clips and not wanted:
        yield (
            ("privacy", "mechanism"),
            f"client {scenario.client.kind()} clips and randomises per example, but mechanism "
            f"{privacy.mechanism.kind()} does not; use the mechanism of unit: example, or client: {{kind: sgd}}",
        )
    clipping = getattr(privacy.mechanism, "clipping", "flat")
    if scenario.client.kind() == "dp_spsa" and clipping != "flat":
        yield ("privacy", "mechanism", "clipping"), f"is {clipping}, but client dp_spsa clips scalars; use flat"
    partition = getattr(scenario.data, "partition", None)
    if privacy.unit == "example" and partition is not None and partition.kind() == "dirichlet_with_replacement":
        yield (
            ("data", "partition"),
            "dirichlet_with_replacement gives copies of one example to several clients and several to one, so clients' "
            "ledgers do not bound it; use dirichlet",
        )
    if privacy.unit == "example" and getattr(scenario.model, "normalisation", None) == "batch":
        yield (
            ("model", "normalisation"),
            "batch normalisation mixes the examples of a batch, so one example's gradient has no bound; use "
            "normalisation: group",
        )


def _is_streaming(scenario: Scenario, public: Public) -> bool:
    return scenario.aggregator.plan(None, public).pacing == "stream"


CHECKS: tuple[Callable[[Scenario], Found], ...] = (
    _fits_mechanism,
    _noise_is_decided_once,
    _relation_is_possible,
    _method_has_a_bound,
    _examples_are_protected,
    private_statistics,
)
