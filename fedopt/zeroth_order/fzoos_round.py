"""The client side of an FZooS round, for all clients of the round in one batch.

    local phase:   T steps along the surrogate gradient plus gamma_t (global - own) feature gradient
    second phase:  queries around the new global point, then the weights of the random features

The server averages points and weights; both are linear, so it needs no function from here except the safeguard.

Options where the paper (arXiv:2308.04077) and the authors' program differ are fields of `FzoosSettings`. Partial
participation is not defined there: with a partial cohort, pass the rows of the clients that take part; a client
keeps its log and its last weights while it is away (ours).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from fedopt import rng
from fedopt.zeroth_order import gaussian_process as gp
from fedopt.zeroth_order import optimizers, query_log, random_features
from fedopt.zeroth_order.directions import uniform
from fedopt.zeroth_order.estimators import Objective, evaluate
from fedopt.zeroth_order.query_log import QueryLog
from fedopt.zeroth_order.random_features import RandomFeatures
from fedopt.zeroth_order.settings import FzoosSettings

GlobalGradient = Callable[[torch.Tensor], torch.Tensor]
_INITIAL, _AROUND_GLOBAL = 0, 1  # draws of a round's stream; local step t uses 1 + t
_SCORES_AT_RANDOM = 1 << 20  # offset of the draws that score candidates at random


class LocalPhase(NamedTuple):
    """What a cohort's local phase produced."""

    points: torch.Tensor  # shape [cohort, d]: x_{r,T}, the first message
    log: QueryLog
    queries: int  # function values per client
    lengthscales: torch.Tensor  # shape [cohort]: chosen for this round
    gammas: tuple[torch.Tensor, ...]  # T tensors [cohort]: correction lengths used


def round_keys(seed: int, clients: Sequence[int], round_number: int) -> list[int]:
    """One stream per client and round, from which all candidates of the round are drawn."""
    return [rng.key(seed, "fzoos-candidates", client, round_number) for client in clients]


def initial_queries(
    log: QueryLog, start: torch.Tensor, objective: Objective, settings: FzoosSettings, keys: Sequence[int]
) -> tuple[QueryLog, int]:
    """Log the one-off queries in the box around the start ``[cohort, d]``; returns (log, queries per client)."""
    if settings.initial_queries == 0:
        return log, 0
    points = _around(start, settings.initial_queries, settings.box, keys, _INITIAL, settings.project)
    return query_log.append(log, points, evaluate(objective, points)), settings.initial_queries


def local_phase(
    log: QueryLog,
    start: torch.Tensor,
    maps: RandomFeatures | None,
    global_weights: torch.Tensor | None,
    own_weights: torch.Tensor | None,
    objective: Objective,
    settings: FzoosSettings,
    keys: Sequence[int],
    round_number: int = 1,
    global_gradient: GlobalGradient | None = None,
    num_clients: int | None = None,
) -> LocalPhase:
    """T local steps of every client.

    Args:
        log: query logs of the cohort; use the returned log afterwards.
        start: ``[cohort, d]``, the global point x_{r-1} each client received.
        maps: the shared random features; None where nothing is corrected.
        global_weights: w_{r-1}, ``[M]`` or ``[cohort, M]``; None in round 1 (no correction).
        own_weights: the clients' last weights ``[cohort, M]``; None in round 1.
        objective: noisy values, points ``[cohort, q, d]`` to ``[cohort, q]``.
        settings: see `FzoosSettings`.
        keys: from `round_keys`.
        round_number: r = 1, 2, ...; matters to the ``bound_minimiser`` only.
        global_gradient: true gradient of the average, ``[cohort, d]`` to ``[cohort, d]``: for the oracle only.
        num_clients: N of the federation, for the ``bound_minimiser`` only; the cohort's size by default.

    Guarantees: asks for ``1 + T + active_queries * (T - 1)`` values per client (``* T`` with
    ``query_after_last_step``).
    """
    difference = None if global_weights is None or own_weights is None else global_weights - own_weights
    points = start
    log, queries = _query(log, points[:, None, :], objective)
    state, gammas = optimizers.init(start), []
    lengthscales = _lengthscales(log, points, settings)
    for turn in range(1, settings.local_steps + 1):
        surrogate = _fit(log, points, settings, lengthscales)
        gradient = gp.gradient(surrogate, points[:, None, :])[:, 0]
        if difference is not None and maps is not None:
            correction = random_features.gradient(maps, points, difference)
            past_steps = (round_number - 1) * settings.local_steps
            gamma = correction_length(
                settings, turn, past_steps, gradient, correction, points, global_gradient, num_clients
            )
            gammas.append(gamma)
            gradient = gradient + gamma[:, None] * correction
        state, displacement = optimizers.step(settings.optimizer, state, gradient)
        points = _project(points + displacement, settings.project)
        log, asked = _query(log, points[:, None, :], objective)
        queries += asked
        if settings.active_queries and (turn < settings.local_steps or settings.query_after_last_step):
            log, asked = _active(
                log, points, objective, settings, lengthscales, keys, 1 + turn,
                settings.candidates, settings.active_queries, settings.box,
            )  # fmt: skip
            queries += asked
    return LocalPhase(points, log, queries, lengthscales, tuple(gammas))


def active_queries_at(
    log: QueryLog,
    global_point: torch.Tensor,
    local_points: torch.Tensor,
    objective: Objective,
    settings: FzoosSettings,
    keys: Sequence[int],
    lengthscales: torch.Tensor,
) -> tuple[QueryLog, int]:
    """Queries at and around the new global point ``[d]``: 1 + ``global_active_queries`` per client.

    The box of client i is half as wide as the mean coordinate distance from its own local point ``[cohort, d]``.
    """
    points = global_point.expand_as(local_points)
    log, queries = _query(log, points[:, None, :], objective)
    width = 0.5 * (points - local_points).abs().mean(1)
    if settings.global_active_queries and settings.global_candidates:
        log, asked = _active(
            log, points, objective, settings, lengthscales, keys, _AROUND_GLOBAL,
            settings.global_candidates, settings.global_active_queries, width,
        )  # fmt: skip
        queries += asked
    return log, queries


def fit_weights(
    log: QueryLog, global_point: torch.Tensor, maps: RandomFeatures, settings: FzoosSettings
) -> torch.Tensor:
    """The second message: feature weights ``[cohort, M]`` from the queries nearest to the global point ``[d]``."""
    centre = global_point.expand(len(log.counts), -1)
    window = query_log.nearest(log, centre, settings.feature_window)
    return random_features.fit_weights(maps, window.points, window.values, settings.feature_ridge, window.mask, centre)


def correction_length(
    settings: FzoosSettings,
    turn: int,
    past_steps: int,
    gradient: torch.Tensor,
    correction: torch.Tensor,
    points: torch.Tensor,
    global_gradient: GlobalGradient | None = None,
    num_clients: int | None = None,
) -> torch.Tensor:
    """gamma ``[cohort]`` of local step ``turn`` = 1..T.

    ``past_steps`` is (r - 1) T, by which the bound's uncertainty has decayed. ``oracle`` may be negative or above 1.

    Raises:
        ValueError: the oracle without the true gradient.
    """
    rule = settings.gamma
    ones = torch.ones(len(points), dtype=points.dtype, device=points.device)
    if rule.rule == "inverse_step":
        return ones / turn
    if rule.rule == "constant":
        return ones * rule.value
    if rule.rule == "bound_minimiser":
        return ones * bound_minimiser(settings, points.shape[1], num_clients or len(points), past_steps)
    if global_gradient is None:
        raise ValueError("gamma rule oracle needs the true global gradient; use it only where the problem has one")
    return oracle_length(gradient, correction, global_gradient(points))


def oracle_length(gradient: torch.Tensor, correction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """gamma that minimises |gradient + gamma correction - target|^2 (Proposition 1; denominator squared)."""
    squared = correction.square().sum(-1)
    gamma = ((target - gradient) * correction).sum(-1) / squared
    return torch.where(squared > 0, gamma, torch.zeros_like(gamma))


def bound_minimiser(settings: FzoosSettings, dimension: int, clients: int, past_steps: int) -> float:
    """gamma = G / (G + 2 omega kappa rho^past_steps + 2 N e), Corollary 1.

    A later remark of the paper prints it without kappa. kappa is that of the first length scale.
    """
    rule = settings.gamma
    omega = dimension + 2 * (math.sqrt(dimension) + 1) * math.log(1 / rule.confidence)
    lengthscale = torch.tensor(settings.lengthscales[0], dtype=torch.float64)
    kappa = float(gp.prior_curvature(settings.kernel, lengthscale))
    error = 1 / settings.features if rule.feature_error is None else rule.feature_error
    below = rule.heterogeneity + 2 * omega * kappa * rule.contraction**past_steps + 2 * clients * error
    return rule.heterogeneity / below


def safeguard(previous: torch.Tensor, previous_value: float, new: torch.Tensor, new_value: float) -> torch.Tensor:
    """The reference program's unmentioned step: keep the old global point unless the new value is smaller.

    It evaluates the true global function outside the query count; off by default, and to be reported when on.
    """
    return new if new_value < previous_value else previous


def _query(log: QueryLog, points: torch.Tensor, objective: Objective) -> tuple[QueryLog, int]:
    return query_log.append(log, points, evaluate(objective, points)), points.shape[1]


def _project(points: torch.Tensor, project: bool) -> torch.Tensor:
    return points.clamp(0.0, 1.0) if project else points


def _lengthscales(log: QueryLog, points: torch.Tensor, settings: FzoosSettings) -> torch.Tensor:
    window = query_log.nearest(log, points, settings.window)
    return gp.choose_lengthscale(
        window.points, window.values, settings.kernel, settings.lengthscales, settings.ridge, window.mask
    )


def _fit(log: QueryLog, points: torch.Tensor, settings: FzoosSettings, lengthscales: torch.Tensor) -> gp.Surrogate:
    window = query_log.nearest(log, points, settings.window)
    return gp.fit(
        window.points, window.values, settings.kernel, lengthscales, settings.ridge, window.mask, origin=points
    )


def _active(
    log: QueryLog,
    points: torch.Tensor,
    objective: Objective,
    settings: FzoosSettings,
    lengthscales: torch.Tensor,
    keys: Sequence[int],
    draw: int,
    candidates: int,
    count: int,
    width: float | torch.Tensor,
) -> tuple[QueryLog, int]:
    """Query the most uncertain of random candidates around the points."""
    drawn = _around(points, candidates, width, keys, draw, settings.project)
    if settings.uncertainty == "random":
        scores = uniform(keys, candidates, _SCORES_AT_RANDOM + draw, points.device, points.dtype)
    else:
        score = gp.trace_uncertainty if settings.uncertainty == "trace" else gp.first_partial_uncertainty
        scores = score(_fit(log, points, settings, lengthscales), drawn)
    chosen = scores.topk(min(count, candidates), dim=1).indices
    return _query(log, drawn.gather(1, chosen[..., None].expand(-1, -1, drawn.shape[2])), objective)


def _around(
    points: torch.Tensor, count: int, width: float | torch.Tensor, keys: Sequence[int], draw: int, project: bool
) -> torch.Tensor:
    """Uniform candidates ``[cohort, count, d]`` in the box of half width ``width`` (scalar or ``[cohort]``)."""
    dimension = points.shape[1]
    unit = uniform(keys, count * dimension, draw, points.device, points.dtype).view(len(points), count, dimension)
    half = torch.as_tensor(width, dtype=points.dtype, device=points.device).view(-1, 1, 1)
    return _project(points[:, None, :] + half * (2 * unit - 1), project)
