"""What a privacy budget buys, without training: tables of epsilon, noise, cohort size and steps. No torch.

Every table carries the numbers it holds for: an epsilon without delta, unit, relation, trust and sampling is not
an answer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedopt.privacy.accountants.base import Accountant
from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.calibrate import calibrate
from fedopt.privacy.events import (
    AccountingError,
    Event,
    GaussianEvent,
    PoissonSampled,
    Relation,
    Repeated,
    ShuffleEvent,
)
from fedopt.privacy.shuffle import clones_epsilon
from fedopt.privacy.trade_off import trade_off

TARGETS = (0.5, 1.0, 2.0, 4.0, 8.0)


def sampled_gaussian(noise_multiplier: float, sampling_probability: float) -> Event:
    """One step of the (Poisson-sampled) Gaussian mechanism; probability 1 is no sampling."""
    event = GaussianEvent(noise_multiplier)
    return event if sampling_probability == 1 else PoissonSampled(sampling_probability, event)


def budget_from_numbers(
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    relation: Relation = "add_or_remove_one",
    accountant: Accountant | None = None,
    hypothetical_population: int | None = None,
) -> dict[str, Any]:
    """Epsilon of Poisson-sampled Gaussian steps, its curve over steps, and what it means to an attacker.

    Args:
        noise_multiplier: noise std over clipping norm, > 0.
        sampling_probability: Poisson probability of the unit in a step, in (0, 1]; 1 for full participation.
        steps: releases, >= 1.
        delta: in [1e-12, 1).
        relation: ``add_or_remove_one``, ``zero_out_one`` or ``replace_one``.
        hypothetical_population: says that the probability belongs to this imagined number of units; a label only.
    Returns:
        JSON-ready mapping with ``epsilon``.

    >>> round(budget_from_numbers(10.0, 1.0, 100, 1e-5)["epsilon"], 4)
    4.3772
    """
    _check(steps, sampling_probability)
    judge = accountant or Pld()
    event = sampled_gaussian(noise_multiplier, sampling_probability)
    curve = epsilon_over_steps(event, steps, delta, relation, judge)
    result = {
        "epsilon": curve[-1]["epsilon"],
        "delta": delta,
        "relation": relation,
        "epsilon_accountant": judge.kind(),
        "noise_multiplier": noise_multiplier,
        "sampling": "poisson" if sampling_probability < 1 else "none",
        "sampling_probability": sampling_probability,
        "steps": steps,
        "epsilon_over_steps": curve,
        "trade_off": trade_off(Repeated(event, steps), relation, judge).as_dict(),
    }
    return label_population(result, hypothetical_population)


def budget_shuffle(
    local_epsilon: float, clients: int, steps: int, delta: float, accountant: Accountant | None = None
) -> dict[str, Any]:
    """Epsilon of shuffled ``local_epsilon``-DP messages over ``steps`` rounds of all ``clients``, replace-one.

    One round is the exact clones bound; several are composed by the accountant.

    >>> 0.16754 <= budget_shuffle(4.0, 100_000, 1, 1e-6)["epsilon"] <= 0.17279
    True
    """
    _check(steps, 1.0)
    judge = accountant or Pld()
    event = ShuffleEvent(local_epsilon, clients)
    one = clones_epsilon(local_epsilon, clients, delta)
    composed = judge.epsilon(Repeated(event, steps), delta, "replace_one") if steps > 1 else one
    plain = local_epsilon * steps  # without amplification, pure
    return {
        "epsilon": min(composed, plain),
        "epsilon_of_one_round": one,
        "epsilon_without_shuffling": plain,
        "delta": delta,
        "relation": "replace_one",
        "trust": "shuffle",
        "epsilon_accountant": judge.kind(),
        "local_epsilon": local_epsilon,
        "clients": clients,
        "steps": steps,
        "bound": "hiding among the clones, numeric (valid for every pure local randomiser)",
    }


def epsilon_over_steps(
    event: Event, steps: int, delta: float, relation: Relation, accountant: Accountant, points: int = 40
) -> list[dict[str, float]]:
    """Rows ``{"step", "epsilon"}`` up to ``steps``, the last one exact."""
    wanted = np.unique(np.concatenate([[1], np.linspace(0, steps, points + 1)[1:].round(), [steps]]).astype(int))
    curve = accountant.epsilon_curve(event, wanted, delta, relation)
    return [{"step": int(step), "epsilon": float(epsilon)} for step, epsilon in zip(wanted, curve, strict=True)]


def noise_for_targets(
    sampling_probability: float,
    steps: int,
    delta: float,
    relation: Relation,
    targets: tuple[float, ...] = TARGETS,
    accountant: Accountant | None = None,
) -> list[dict[str, float]]:
    """Rows ``{"target_epsilon", "noise_multiplier", "epsilon"}``: the least noise for every target."""
    _check(steps, sampling_probability)
    judge = accountant or Pld()
    rows = []
    for target in targets:
        found = calibrate(
            lambda z: Repeated(sampled_gaussian(z, sampling_probability), steps), target, delta, relation, judge
        )
        rows.append({"target_epsilon": target, "noise_multiplier": found.noise_multiplier, "epsilon": found.epsilon})
    return rows


def effect_of_cohort(
    noise_multiplier: float,
    population: int,
    cohorts: tuple[int, ...],
    steps: int,
    delta: float,
    relation: Relation,
    accountant: Accountant | None = None,
) -> list[dict[str, float]]:
    """Rows per expected cohort m: epsilon, and ``noise_of_mean`` = noise_multiplier / m in clipping norms.

    A larger cohort costs epsilon and buys accuracy: the mean's noise falls like 1 / m.
    """
    judge = accountant or Pld()
    rows = []
    for cohort in cohorts:
        if not 1 <= cohort <= population:
            raise AccountingError(f"cohort must be in [1, population = {population}], got {cohort}")
        event = sampled_gaussian(noise_multiplier, cohort / population)
        rows.append(
            {
                "cohort": cohort,
                "sampling_probability": cohort / population,
                "epsilon": judge.epsilon(Repeated(event, steps), delta, relation),
                "noise_of_mean": noise_multiplier / cohort,
            }
        )
    return rows


def effect_of_population(
    noise_multiplier: float,
    cohort: int,
    populations: tuple[int, ...],
    steps: int,
    delta: float,
    relation: Relation,
    simulated: int,
    accountant: Accountant | None = None,
) -> list[dict[str, Any]]:
    """Rows per population: epsilon if there were that many units; all but ``simulated`` are labelled hypothetical."""
    rows: list[dict[str, Any]] = []
    for population in populations:
        row = effect_of_cohort(noise_multiplier, population, (cohort,), steps, delta, relation, accountant)[0]
        rows.append(
            label_population({"population": population, **row}, population if population != simulated else None)
        )
    return rows


def label_population(result: dict[str, Any], hypothetical_population: int | None) -> dict[str, Any]:
    """Mark a result that holds for an imagined population, so that it is never read as the run's own."""
    if hypothetical_population is None:
        return result
    note = f"HYPOTHETICAL: holds only if there were {hypothetical_population} units"
    return {**result, "hypothetical_population": hypothetical_population, "note": note}


def _check(steps: int, probability: float) -> None:
    if steps < 1:
        raise AccountingError(f"steps must be >= 1, got {steps}")
    if not 0 < probability <= 1 or math.isnan(probability):
        raise AccountingError(f"sampling_probability must be in (0, 1], got {probability}")
