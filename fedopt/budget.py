"""``fedopt budget``: epsilon and noise of a scenario or of bare numbers, in seconds, without training or torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedopt.privacy.accounting import PrivacyAccounting
from fedopt.privacy.combination import public_of
from fedopt.privacy.plan import plan, planned_counts, sampling_claim
from fedopt.scenario import Scenario

TARGETS = (0.5, 1.0, 2.0, 4.0, 8.0)
POINTS = 10


def budget_of(scenario: Scenario, targets: tuple[float, ...] = TARGETS) -> dict[str, Any]:
    """What a scenario's privacy section will cost.

    Args:
        scenario: a checked scenario with privacy.
        targets: epsilons for which the noise is asked.
    Returns:
        ``epsilon`` after the planned run, the noise, everything epsilon must be read with, ``over_steps`` and
        ``noise_for_targets``.
    Raises:
        ValueError: no privacy section, or the number of clients is not in the scenario.
    """
    privacy, public = scenario.privacy, public_of(scenario)
    if privacy is None:
        raise ValueError("the scenario has no privacy section; add one, or give bare numbers")
    if public is None:
        raise ValueError("the number of clients is not in the scenario; set data.clients")
    found = plan(scenario, public)
    claim = sampling_claim(scenario, public)
    result: dict[str, Any] = {
        "epsilon": found.accounting.exact_planned(),
        "delta": privacy.delta,
        "unit": privacy.unit,
        "relation": privacy.relation,
        "trust": privacy.trust,
        "sampling": claim.kind if claim.kind == "poisson" else "no amplification",
        "sampling_probability": claim.probability,
        "accountant": privacy.accountant,
        "noise_multiplier": found.mechanism.noise_level(),
        "warnings": list(found.warnings),
    }
    result["over_steps"] = _over_steps(scenario, found.mechanism, claim, public)
    result["noise_for_targets"] = _noise_for_targets(scenario, public, targets)
    return result


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


def _noise_for_targets(scenario: Scenario, public: Any, targets: tuple[float, ...]) -> list[dict[str, Any]]:
    assert scenario.privacy is not None
    open_noise = scenario.privacy.mechanism.model_copy(update={"noise_multiplier": None})
    if open_noise.noise_level() is not None:
        return []  # noise of this mechanism is not one multiplier
    rows = []
    for target in targets:
        asked = scenario.privacy.model_copy(update={"mechanism": open_noise, "target_epsilon": target})
        found = plan(scenario.model_copy(update={"privacy": asked}), public)
        rows.append({"target_epsilon": target, "noise_multiplier": found.mechanism.noise_level()})
    return rows


def as_text(result: dict[str, Any]) -> str:
    """The result for people: epsilon never without what it must be read with."""
    lines = [f"epsilon {result['epsilon']:.4f} at delta {result['delta']:g}"]
    for key in ("unit", "relation", "trust", "sampling", "accountant", "noise_multiplier", "note"):
        if result.get(key) is not None:
            lines.append(f"  {key}: {result[key]}")
    lines += [f"  warning: {text}" for text in result.get("warnings", [])]
    for name, title in (("over_steps", "epsilon over steps"), ("noise_for_targets", "noise for targets")):
        if result.get(name):
            lines.append(f"{title}:")
            lines += ["  " + "  ".join(f"{k} {_number(v)}" for k, v in row.items()) for row in result[name]]
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
