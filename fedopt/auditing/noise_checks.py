"""Checks of the noise: its scale, its place before the optimiser, fresh in every draw, from a secret."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch

from fedopt.auditing.observe import Trace
from fedopt.auditing.probe import Probe
from fedopt.privacy.releases import Event, GaussianEvent, MatrixEvent, TreeEvent

_ERRORS = 5.0  # standard errors a statistic may be off


def noise_scale(probe: Probe) -> tuple[bool | None, str]:
    """The noise of no release may be smaller than what is charged."""
    if probe.by_example and probe.local:
        return _example_noise_scale(probe)
    if probe.scenario.privacy.trust == "shuffle":  # type: ignore[union-attr]
        return None, "the randomness of shuffled messages is not one scale; the one-run audit covers it"
    trace = probe.run(0.0, 1)
    claims = {row["step"]: row["noise_std"] for row in trace.rows if row.get("noise_std")}
    if not claims:
        return None, "no noise is claimed"
    usual = next(iter(claims.values()))
    charged = min((_charged_multiplier(event) for event in probe.events), default=0.0)
    said = [row["noise_multiplier"] for row in trace.rows if row.get("noise_multiplier") is not None]
    if not probe.local and min(said, default=charged) < charged * (1 - 1e-6):
        return False, f"a release has noise multiplier {min(said):.4g}, the ledger charges {charged:.4g}"
    judged = [_judge(values, claims.get(step, usual)) for step, values in _noise_by_step(probe, trace).items()]
    if not judged:
        return None, "no reply was released in the probed steps"
    return next((found for found in judged if not found[0]), judged[0])


def noise_before_optimiser(probe: Probe) -> tuple[bool | None, str]:
    """What the optimiser sees must carry the noise already: noise put on its output leaves its state unprotected."""
    one, two = probe.run(0.0, 1), probe.run(0.0, 2)
    seen = float((probe.released(one, 0) - probe.released(two, 0)).norm())
    left = float((one.params[1] - two.params[1]).double().norm())
    if left == 0 and seen == 0:
        return None, "the model does not depend on the noise; see secret_noise"
    return seen > 0, f"two secrets differ by {seen:.4g} in the optimiser's input and by {left:.4g} in the model"


def fresh_noise(probe: Probe) -> tuple[bool | None, str]:
    """Noise of different releases (and of different clients) must not repeat."""
    draws = _separate_noise(probe, probe.run(0.0, 1))
    if len(draws) < 2:
        return None, "fewer than two releases in the probed steps"
    shared = any(isinstance(event, (TreeEvent, MatrixEvent)) for event in probe.events)
    limit = 0.95 if shared else min(0.95, (_ERRORS + 1) / math.sqrt(len(draws[0])))
    largest = max(abs(_correlation(a, b)) for a, b in pairwise(draws))
    about = "correlated by design" if shared else "independent"
    return largest < limit, f"largest correlation of neighbouring draws {largest:.3f}, allowed {limit:.3f} ({about})"


def secret_noise(probe: Probe) -> tuple[bool | None, str]:
    """Noise must change with the secret source alone; noise that the public seed decides protects nothing."""
    first, second = (_separate_noise(probe, probe.run(0.0, number)) for number in (1, 2))
    if not first or not second:
        return None, "nothing was released in the probed steps"
    found = abs(_correlation(first[0], second[0]))
    limit = min(0.95, (_ERRORS + 1) / math.sqrt(len(first[0])))
    if float(first[0].norm()) == 0:
        return None, "no noise is added"
    return found < limit, f"correlation of the noise of two secrets {found:.3f}, allowed {limit:.3f}"


def _charged_multiplier(event: Event) -> float:
    """Noise std over the bound that the ledger takes for one release; 0 where the event is no Gaussian."""
    if isinstance(event, MatrixEvent):
        return event.noise_multiplier / event.sensitivity  # the event is in units of the encoder's sensitivity
    return event.noise_multiplier if isinstance(event, (GaussianEvent, TreeEvent)) else 0.0


def _noise_by_step(probe: Probe, trace: Trace) -> dict[int, torch.Tensor]:
    """Step -> noise of its release (or of the single replies made for it) when nobody contributes.

    Noise in shares leaves a release of no replies without any, which tells nothing.
    """
    if not probe.local:
        in_shares = probe.scenario.privacy.trust == "distributed"  # type: ignore[union-attr]
        kept = [(i, row["step"]) for i, row in enumerate(trace.rows) if row["participants"] or not in_shares]
        return {step: probe.released(trace, index) for index, step in kept}
    replies: dict[int, list[torch.Tensor]] = {}
    for step, _, reply in trace.replies:
        replies.setdefault(step, []).append(reply.double().cpu())
    return {step: torch.cat(rows) for step, rows in replies.items()}


def _separate_noise(probe: Probe, trace: Trace) -> list[torch.Tensor]:
    if probe.local:
        return [reply.double().cpu() for _, _, reply in trace.replies if float(reply.norm()) > 0]
    return [probe.released(trace, step) for step in range(len(trace.released))]


def _example_noise_scale(probe: Probe) -> tuple[bool | None, str]:
    """Local training without examples is noise only: ``lr / B`` times the sum of the steps' noise."""
    client: Any = probe.scenario.client
    if getattr(client, "momentum", 0.0) or getattr(client, "weight_decay", 0.0):
        return None, "momentum or weight decay mix the steps' noise; the one-run audit covers it"
    trace, engine = probe.run(0.0, 1), probe.engines[0.0, 1]
    std = trace.rows[0].get("noise_std") or 0.0
    charged = probe.mechanism.multiplier * probe.mechanism.example_norm()
    if not std:
        return None, "no noise is claimed"
    if std < charged * (1 - 1e-6):
        return False, f"noise_std {std:.4g} is below the charged multiplier times the clipping norm, {charged:.4g}"
    scaled = []
    replies = iter(trace.replies)
    for cohort, plan in engine.plans:
        for row in range(len(cohort)):
            found = next(((c, r) for _, c, r in replies), None)
            if found is None or plan.steps[row] == 0:
                continue
            total = math.sqrt(sum(float(1 / plan.denominators[row, s]) ** 2 for s in range(int(plan.steps[row]))))
            scaled.append(found[1].double().cpu() / (client.lr * total))
    if not scaled:
        return None, "no client replied in the probed steps"
    return _judge(torch.cat(scaled), std)


def _judge(values: torch.Tensor, std: float) -> tuple[bool, str]:
    measured = float(values.square().mean().sqrt())
    allowed = std * (1 - _ERRORS / math.sqrt(2 * len(values)))
    return measured >= allowed, f"measured noise {measured:.4g}, claimed {std:.4g} ({len(values)} values)"


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()).clamp_min(1e-300))


CHECKS = {
    "noise_scale": noise_scale,
    "noise_before_optimiser": noise_before_optimiser,
    "fresh_noise": fresh_noise,
    "secret_noise": secret_noise,
}
