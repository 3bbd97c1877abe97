"""Checks of how far one unit can move a release: clipping, weights, one contribution per release."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from fedopt.auditing.probe import LARGE_PUSH, SMALL_PUSH, Probe
from fedopt.privacy.releases import GaussianEvent, MatrixEvent, TreeEvent

_SLACK = 1e-3  # relative; float32 sums


def clipping(probe: Probe) -> tuple[bool | None, str]:
    """A contribution a hundred times longer must not move the release further."""
    if probe.by_example and probe.local:
        return _example_clipping(probe)
    step = 0 if probe.by_example else probe.target_step
    small, large = _moved(probe, SMALL_PUSH, step), _moved(probe, LARGE_PUSH, step)
    detail = f"contributions of {SMALL_PUSH:g} C and {LARGE_PUSH:g} C move the release by {small:.4g} and {large:.4g}"
    if small == 0 and large == 0:
        return None, "the target's contribution did not reach a release in the probed steps"
    return large <= small * (1 + _SLACK) + _rounding(probe, step), detail


def sensitivity(probe: Probe) -> tuple[bool | None, str]:
    """The heaviest contribution must not move the release further than its noise is calibrated for."""
    if probe.local:
        return None, "replies are protected one by one; see clipping and noise_scale"
    if not any(isinstance(event, (GaussianEvent, TreeEvent, MatrixEvent)) for event in probe.events):
        return None, "the noise is not a multiple of a Gaussian's sensitivity; see clipping"
    step = 0 if probe.by_example else probe.target_step
    row = probe.run(0.0, 1).rows[step]
    multiplier, std = row.get("noise_multiplier") or 0.0, row.get("noise_std") or 0.0
    if not multiplier or not std:
        return None, "no noise was added"
    unit = "example" if probe.by_example else "client"
    allowed, moved = std / multiplier, _moved(probe, LARGE_PUSH, step)
    detail = f"one {unit} moves the release by {moved:.4g}; noise is calibrated for {allowed:.4g}"
    return moved <= allowed * (1 + _SLACK) + _rounding(probe, step), detail


def one_contribution(probe: Probe) -> tuple[bool | None, str]:
    """A client must not be in one release twice."""
    counts = Counter(
        (row["step"], row["client_id"]) for row in probe.run(0.0, 1).outcomes if row["status"] == "admitted"
    )
    if not counts:
        return None, "no reply was admitted in the probed steps"
    (step, client), most = counts.most_common(1)[0]
    if most == 1:
        return True, f"{len(counts)} contributions, every client at most once per release"
    return False, f"client {client} is {most} times in the release of step {step}; hold the second reply back"


def _example_clipping(probe: Probe) -> tuple[bool | None, str]:
    """One example moves its client's reply by at most ``lr C / B`` per local step it is drawn in."""
    client: Any = probe.scenario.client
    example, holder = probe.example
    if getattr(client, "momentum", 0.0) or getattr(client, "weight_decay", 0.0):
        return None, "momentum or weight decay carry one step into the next; the one-run audit covers it"
    without, with_it = probe.run(0.0, 1).replies, probe.run(LARGE_PUSH, 1).replies
    found = [
        float((b.double() - a.double()).norm())
        for (_, c, a), (_, _, b) in zip(without, with_it, strict=True)
        if c == holder
    ]
    allowed = []
    for cohort, plan in probe.engines[LARGE_PUSH, 1].plans:
        for row in (i for i, c in enumerate(cohort.clients) if c == holder):
            steps = range(int(plan.steps[row]))
            drawn = [s for s in steps if example in plan.indices[row, s, : plan.counts[row, s]]]
            allowed.append(
                client.lr * probe.mechanism.example_norm() * sum(1 / plan.denominators[row, s] for s in drawn)
            )
    if not any(allowed) or len(allowed) != len(found):
        return None, "the example was not drawn in the probed steps"
    excess = max(moved - bound for moved, bound in zip(found, allowed, strict=True))
    detail = f"one example moves its client's reply by at most {max(found):.4g}, allowed {max(allowed):.4g}"
    return excess <= _SLACK * max(allowed) + _rounding(probe, 0), detail


def _moved(probe: Probe, push: float, step: int) -> float:
    """How far the target moves what is protected at a step, noise being the same."""
    if probe.local:
        return _reply_moved(probe, push)
    without, with_it = probe.run(0.0, 1), probe.run(push, 1)
    if step >= min(len(without.released), len(with_it.released)):
        return 0.0
    return float((probe.released(with_it, step) - probe.released(without, step)).norm())


def _reply_moved(probe: Probe, push: float) -> float:
    """The same for the target's first reply."""
    who = probe.target
    found = [
        next((reply.double() for _, client, reply in probe.run(p, 1).replies if client == who), None)
        for p in (0.0, push)
    ]
    if found[0] is None or found[1] is None:
        return 0.0
    return float((found[1] - found[0]).norm())


def _rounding(probe: Probe, step: int) -> float:
    """Float32 rounding of a release of this size."""
    if probe.local:
        scale = max((float(reply.double().norm()) for _, _, reply in probe.run(0.0, 1).replies), default=0.0)
    else:
        scale = float(probe.released(probe.run(0.0, 1), step).norm())
    return 1e-5 * scale + 1e-12 * math.sqrt(probe.dimension)


CHECKS = {"clipping": clipping, "sensitivity": sensitivity, "one_contribution": one_contribution}
