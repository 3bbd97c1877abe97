"""The finite-difference baselines of FZooS: FedZO, FedProx-ZO and SCAFFOLD-ZO I and II, batched over clients.

All follow x <- step(x, estimate + extra); only the extra differs:

| method | extra |
|---|---|
| fedzo | none |
| fedprox | proximal (x - x_{r-1}), pulls back to the round's start |
| scaffold1 | mean_j D_j(x_{r-1}) - D_i(x_{r-1}), estimated at the global point: a second exchange |
| scaffold2 | mean_j c_j - c_i, c_j the mean of client j's own uncorrected estimates of the round before |

Nothing is added in round 1. Partial participation is not defined by the paper; keep c_i of absent clients (ours).

References: Shu et al. 2023, arXiv:2308.04077, section 3; Fang et al. 2022, arXiv:2201.09531 (FedZO); Karimireddy
et al. 2020 (SCAFFOLD, options I and II); Li et al. 2020 (FedProx).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from fedopt import rng
from fedopt.zeroth_order import optimizers
from fedopt.zeroth_order.estimators import Estimate, Objective, draw, estimate, evaluate, factor, forward_gradient
from fedopt.zeroth_order.settings import FiniteDifferenceSettings


class LocalPhase(NamedTuple):
    """What a cohort's local phase produced."""

    points: torch.Tensor  # shape [cohort, d]: x_{r,T}
    mean_estimate: torch.Tensor  # shape [cohort, d]: mean uncorrected estimate, SCAFFOLD-II's next c_i
    last_value: torch.Tensor  # shape [cohort]: value at x_{r,T}
    queries: int  # function values per client


def round_keys(seed: int, clients: Sequence[int], round_number: int) -> list[int]:
    """One direction stream per client and round."""
    return [rng.key(seed, "finite-difference-directions", client, round_number) for client in clients]


def estimate_at(
    points: torch.Tensor,
    objective: Objective,
    settings: FiniteDifferenceSettings,
    keys: Sequence[int],
    turn: int = 0,
) -> Estimate:
    """Finite-difference estimates at ``[cohort, d]`` with the directions of local step ``turn``.

    SCAFFOLD-I's control estimate is this at x_{r-1} with ``turn=0`` and keys of its own.
    """
    dimension = points.shape[1]
    directions = draw(
        settings.directions, dimension, keys, settings.count, turn * settings.count, points.device, points.dtype
    )
    scale = factor(settings.directions, dimension, settings.count)
    if settings.scheme == "jvp":
        made = forward_gradient(objective, points, directions)
        return made._replace(gradient=made.gradient * scale)
    return estimate(objective, points, directions, settings.radius, settings.scheme, scale)


def control_correction(own: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """SCAFFOLD's extra term ``[cohort, d]`` from the clients' control estimates and their (weighted) mean ``[d]``."""
    return mean - own


def local_phase(
    start: torch.Tensor,
    objective: Objective,
    settings: FiniteDifferenceSettings,
    keys: Sequence[int],
    correction: torch.Tensor | None = None,
    first_round: bool = False,
    objective_at: Callable[[int], Objective] | None = None,
) -> LocalPhase:
    """T local steps of every client.

    Args:
        start: ``[cohort, d]``, the global point each client received.
        objective: noisy values, points ``[cohort, q, d]`` to ``[cohort, q]``.
        settings: see `FiniteDifferenceSettings`.
        keys: from `round_keys`.
        correction: SCAFFOLD's term from `control_correction`; None adds nothing.
        first_round: no correction and no proximal term.
        objective_at: the objective of local step 0, 1, ... where it changes (a batch per step); default the same.

    Guarantees: asks for ``1 + T * queries_per_estimate`` values per client, the last one at x_{r,T}.
    """
    points, total, queries = start, torch.zeros_like(start), 0
    state = optimizers.init(start)
    for turn in range(settings.local_steps):
        now = objective if objective_at is None else objective_at(turn)
        made = estimate_at(points, now, settings, keys, turn)
        queries += made.queries
        total = total + made.gradient
        gradient = made.gradient
        if not first_round and settings.method == "fedprox":
            gradient = gradient + settings.proximal * (points - start)
        if not first_round and correction is not None:
            gradient = gradient + correction
        state, displacement = optimizers.step(settings.optimizer, state, gradient)
        points = points + displacement
        points = points.clamp(0.0, 1.0) if settings.project else points
    last = evaluate(objective, points[:, None, :])[:, 0]
    return LocalPhase(points, total / settings.local_steps, last, queries + 1)
