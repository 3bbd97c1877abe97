"""``fedopt budget``: epsilon and noise of a scenario or of bare numbers, in seconds, without training or torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedopt.privacy.accounting import PrivacyAccounting
from fedopt.privacy.base import NeedsDimension
from fedopt.privacy.budget import label_population
from fedopt.privacy.plan import plan, planned_counts, sampling_claim
from fedopt.privacy.public_facts import public_of
from fedopt.scenario import Scenario
from fedopt.types import Public

TARGETS = (0.5, 1.0, 2.0, 4.0, 8.0)
POINTS = 10


def budget_of(scenario: Scenario, targets: tuple[float, ...] = TARGETS, dimension: int | None = None) -> dict[str, Any]:
    """What a scenario's privacy section will cost.

    Args:
        scenario: a checked scenario with privacy.
        targets: epsilons for which the noise is asked.
        dimension: parameters of the model, where the noise depends on them (skellam, shuffle_vector_sum).
    Returns:
        ``epsilon`` after the planned run, the noise, everything epsilon must be read with, ``over_steps``,
        ``over_cohorts`` (the same noise with other cohorts) and ``noise_for_targets``.
    Raises:
        ValueError: no privacy section, the number of clients is not in the scenario, ``dimension`` is needed, or the
            clients' numbers of examples are, and the data cannot be read.
    """
    privacy, public = scenario.privacy, public_of(scenario)
    if privacy is None:
        raise ValueError("the scenario has no privacy section; add one, or give bare numbers")
    if public is None:
        raise ValueError("the number of clients is not in the scenario; set data.clients")
    try:
        known = replace(public, dimension=dimension, num_examples=_sizes(scenario, public))
        return label_population(_tables(scenario, known, targets), privacy.hypothetical_population)
    except NeedsDimension as error:
        raise ValueError(f"{error}; give their number: --dimension") from error


def _sizes(scenario: Scenario, public: Public) -> Any:
    """Numbers of examples: those of the data where what a client pays depends on them.

    Raises:
        ValueError: the data cannot be read here.
    """
    assert scenario.privacy is not None
    if public.num_examples is None or not scenario.privacy.mechanism.client_ledgers:
        return public.num_examples
    try:
        return scenario.data.load(scenario.seed).clients.sizes()
    except OSError as error:
        raise ValueError(
            f"what a client pays depends on its number of examples ({error}); set client.sampling_probability and "
            "client.steps, or ask where the data are"
        ) from error


def _tables(scenario: Scenario, public: Public, targets: tuple[float, ...]) -> dict[str, Any]:
    privacy = scenario.privacy
    assert privacy is not None
    found = plan(scenario, public)
    claim = sampling_claim(scenario, public)
    result: dict[str, Any] = {
        "epsilon": found.accounting.exact_planned(),
        "delta": privacy.delta,
        "unit": privacy.unit,
        "relation": privacy.relation,
        "trust": privacy.trust,
        "sampling": _sampling_in_words(claim, found.mechanism),
        "sampling_probability": claim.probability,
        "accountant": privacy.accountant,
        **noise_of(found.mechanism),
        "warnings": list(found.warnings),
    }
    result["over_steps"] = _over_steps(scenario, found.mechanism, claim, public)
    result["over_cohorts"] = _over_cohorts(scenario, found.mechanism, public)
    result["noise_for_targets"] = _noise_for_targets(scenario, public, targets)
    return result


def noise_of(mechanism: Any) -> dict[str, float]:
    """The settings of a mechanism that say how much noise there is, by name."""
    found = {name: getattr(mechanism, name) for name in mechanism.noise_settings}
    return {name: value for name, value in found.items() if value is not None}


def _sampling_in_words(claim: Any, mechanism: Any) -> str:
    if mechanism.client_ledgers:
        return "Poisson batches of examples inside the clients; the sampling of clients is not used"
    return "poisson" if claim.kind == "poisson" else "no amplification"


def _over_steps(scenario: Scenario, mechanism: Any, claim: Any, public: Any) -> list[dict[str, float]]:
    releases, participations = planned_counts(scenario, claim)
    last = releases if releases is not None else participations
    if last is None:
        return []
    rows = []
    for step in np.unique(np.linspace(1, last, POINTS).round().astype(int)).tolist():
        most = min(step, participations) if participations is not None else step
        accounting = PrivacyAccounting(scenario, mechanism, claim, public, step, most)
        rows.append({"step": step, "epsilon": accounting.exact_planned()})
    return rows


def _over_cohorts(scenario: Scenario, mechanism: Any, public: Public) -> list[dict[str, float]]:
    """Epsilon and noise of the mean (in clipping norms) with the same noise and half to four times the cohort."""
    planned = getattr(scenario.sampling, "cohort_size", None)
    level = mechanism.noise_level()
    if planned is None or level is None:
        return []
    rows = []
    for factor in (0.5, 1, 2, 4):
        cohort = type(planned)(max(1, planned * factor))
        if cohort > public.num_clients:
            continue
        sampling = scenario.sampling.model_copy(update={"cohort_size": cohort})
        changed = scenario.model_copy(update={"sampling": sampling})
        now = replace(public, expected_cohort=sampling.expected_cohort(public.num_clients))
        claim = sampling_claim(changed, now)
        releases, participations = planned_counts(changed, claim)
        if participations is None:
            return []
        accounting = PrivacyAccounting(changed, mechanism, claim, now, releases, participations)
        rows.append({"cohort": cohort, "epsilon": accounting.exact_planned(), "noise_of_mean": level / cohort})
    return rows


def _noise_for_targets(scenario: Scenario, public: Any, targets: tuple[float, ...]) -> list[dict[str, Any]]:
    assert scenario.privacy is not None
    mechanism = scenario.privacy.mechanism
    open_noise = mechanism.model_copy(update=dict.fromkeys(mechanism.noise_settings))
    rows = []
    for target in targets:
        asked = scenario.privacy.model_copy(update={"mechanism": open_noise, "target_epsilon": target})
        found = plan(scenario.model_copy(update={"privacy": asked}), public)
        rows.append({"target_epsilon": target, **noise_of(found.mechanism)})
    return rows


_SHOWN = (
    "unit", "relation", "trust", "sampling", "accountant", "epsilon_accountant", "noise_multiplier",
    "difference_noise_multiplier", "local_epsilon", "bits", "clients", "bound",
)  # fmt: skip


def as_text(result: dict[str, Any]) -> str:
    """The result for people: epsilon never without what it must be read with."""
    lines = [f"epsilon {result['epsilon']:.4f} at delta {result['delta']:g}"]
    if result.get("note"):
        lines.append(f"  {result['note']}")
    for key in _SHOWN:
        if result.get(key) is not None:
            lines.append(f"  {key}: {_number(result[key])}")
    lines += [f"  warning: {text}" for text in result.get("warnings", [])]
    tables = (
        ("over_steps", "epsilon over steps"),
        ("epsilon_over_steps", "epsilon over steps"),
        ("over_cohorts", "epsilon and noise of the mean over cohorts"),
        ("noise_for_targets", "noise for targets"),
    )
    for name, title in tables:
        if result.get(name):
            lines.append(f"{title}:")
            lines += ["  " + "  ".join(f"{k} {_number(v)}" for k, v in row.items()) for row in result[name]]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Epsilon over steps, and noise for targets, as one figure (SVG, PNG or PDF by the name).

    Raises:
        ValueError: the result has no table to draw, or the name no such ending.
    """
    drawn = [
        (name, x, y)
        for name, x, y in (
            ("over_steps", "step", "epsilon"),
            ("epsilon_over_steps", "step", "epsilon"),
            ("over_cohorts", "cohort", "epsilon"),
            ("noise_for_targets", "target_epsilon", _noise_name(result)),
        )
        if result.get(name)
    ]
    if not drawn:
        raise ValueError("there is no table to draw; give a scenario with run.server_steps")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels, axes = plt.subplots(1, len(drawn), figsize=(4.5 * len(drawn), 3.5), squeeze=False)
    for axis, (name, x, y) in zip(axes[0], drawn, strict=True):
        axis.plot([row[x] for row in result[name]], [row[y] for row in result[name]], marker="o")
        axis.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    about = ", ".join(
        f"{key} {result[key]}" for key in ("delta", "unit", "relation", "trust", "sampling") if key in result
    )
    panels.suptitle(f"{result['note']}\n{about}" if result.get("note") else about, fontsize=9)
    panels.tight_layout()
    panels.savefig(path)
    plt.close(panels)


def _noise_name(result: dict[str, Any]) -> str:
    """The first noise setting of the table of targets."""
    rows = result.get("noise_for_targets") or [{}]
    return next((name for name in rows[0] if name != "target_epsilon"), "noise_multiplier")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
