"""From scores of present and absent canaries to certified lower bounds of epsilon, and the estimate that is not one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from fedopt.privacy.audit_statistics import (
    one_run_epsilon,
    one_run_gaussian_epsilon,
    one_shot_estimate,
    repeats_epsilon,
)
from fedopt.privacy.gaussian_dp import gaussian_mu_of

LARGEST_CLAIM = 50.0  # beyond it the number of guesses is no longer fitted to the claim


@dataclass(frozen=True)
class Finding:
    """One number of an audit.

    Args:
        method: what computed it.
        kind: ``certified`` (the truth is at least this with probability 1 - alpha) or ``estimate`` (may exceed it).
        epsilon: the number; None where the method does not apply.
        alpha: share of the failure probability, for certified bounds.
        detail: how it came about, or why it does not apply.
    """

    method: str
    kind: str
    epsilon: float | None
    alpha: float | None
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


def guesses_for(canaries: int, claimed: float, alpha: float, delta: float) -> int:
    """How many canaries to guess, half in, half out: the best number if the claim were a tight Gaussian.

    Depends on the claim only, so it is fixed before any score is seen. Even, at least 2.
    """
    if not 1e-3 < claimed < LARGEST_CLAIM:
        claimed = min(max(claimed, 1e-3), LARGEST_CLAIM)
    mu = gaussian_mu_of(claimed, delta)
    order = (np.arange(canaries) + 0.5) / canaries
    # Scores of a half-and-half mixture of N(0, 1) and N(mu, 1), at its quantiles, and who is more likely right there.
    grid = np.concatenate([ndtri(order), mu + ndtri(order)])
    scores = np.sort(grid)
    present = 1 / (1 + np.exp(-(mu * scores - mu * mu / 2)))
    best, chosen = (-1.0, 0.0), 2
    for guesses in sorted({max(2, 2 * round(canaries * share / 2)) for share in np.linspace(0.05, 1.0, 14)}):
        if guesses > canaries:
            continue
        right = float(np.mean(np.concatenate([present[-guesses:], 1 - present[:guesses]])) * guesses)
        bound = one_run_epsilon(canaries, guesses, min(guesses, math.floor(right)), alpha, delta)
        found = (bound, (2 * right - guesses) / math.sqrt(guesses))  # where no bound is expected: the clearest excess
        if found > best:
            best, chosen = found, guesses
    return chosen


def one_run(
    scores: np.ndarray, present: np.ndarray, claimed: float, alpha: float, delta: float, gaussian: bool
) -> list[Finding]:
    """Both one-run bounds of the same guesses (Steinke et al. 2023; Mahloujifar et al. 2024 for a Gaussian curve).

    Args:
        scores: of all canaries ``[m]``; higher means present.
        present: their coins ``[m]`` bool.
        claimed: epsilon of the accountant; decides how many guesses are made.
        alpha: failure probability of each bound.
        delta: the accountant's delta.
        gaussian: whether the claim is one Gaussian trade-off curve.
    """
    m = len(scores)
    guesses = guesses_for(m, claimed, alpha, delta)
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    correct = int((~present[order[:half]]).sum() + present[order[m - half :]].sum())
    detail = f"{correct} of {2 * half} guesses right, {m} canaries"
    bound = one_run_epsilon(m, 2 * half, correct, alpha, delta)
    found = [Finding("one_run", "certified", bound, alpha, detail)]
    if gaussian:
        curve = one_run_gaussian_epsilon(m, 2 * half, correct, alpha, delta)
        found.append(Finding("one_run_f_dp", "certified", curve, alpha, detail + "; for the Gaussian curve"))
    else:
        why = "the claim is not one Gaussian curve, which this bound is for"
        found.append(Finding("one_run_f_dp", "certified", None, alpha, why))
    return found


def one_shot(seen: np.ndarray, unseen: np.ndarray, delta: float) -> Finding:
    """The estimate of Andrew et al. 2023 from statistics of present canaries and of ones never present."""
    if len(seen) < 8 or len(unseen) < 8 or np.std(seen) == 0 or np.std(unseen) == 0:
        return Finding("one_shot", "estimate", None, None, f"too few canaries took part: {len(seen)}")
    found = one_shot_estimate(seen, delta, unseen=unseen)
    detail = f"{len(seen)} canaries, mean statistic {found.mean:.4g}, standard deviation {found.std:.4g}"
    return Finding("one_shot", "estimate", found.epsilon, None, detail)


def repeats(scores: np.ndarray, present: np.ndarray, alpha: float, delta: float) -> Finding:
    """Clopper-Pearson over independent runs with one canary each; the first half of the runs chooses the threshold."""
    half = len(scores) // 2
    threshold = _best_threshold(scores[:half], present[:half], delta)
    counts = _errors(scores[half:], present[half:], threshold)
    missed, inside, alarms, outside = counts
    if inside == 0 or outside == 0:
        return Finding("repeats", "certified", None, alpha, "too few runs; raise repeats")
    bound = repeats_epsilon(missed, inside, alarms, outside, alpha, delta)
    detail = f"{missed} of {inside} present canaries missed, {alarms} of {outside} absent ones accused"
    return Finding("repeats", "certified", bound, alpha, detail)


def _errors(scores: np.ndarray, present: np.ndarray, threshold: float) -> tuple[int, int, int, int]:
    accused = scores > threshold
    return (
        int((~accused & present).sum()),
        int(present.sum()),
        int((accused & ~present).sum()),
        int((~present).sum()),
    )


def _best_threshold(scores: np.ndarray, present: np.ndarray, delta: float) -> float:
    best, chosen = -1.0, float(np.median(scores))
    ordered = np.unique(scores)
    for threshold in (ordered[1:] + ordered[:-1]) / 2:
        counts = _errors(scores, present, float(threshold))
        if counts[1] and counts[3]:
            found = repeats_epsilon(*counts, alpha=0.5, delta=delta)
            if found > best:
                best, chosen = found, float(threshold)
    return chosen
