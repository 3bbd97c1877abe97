"""ZO-SGD, ZO-sign and ZO-Adam as pure functions over a cohort: estimates in, displacements out.

The estimates are gradients, so a displacement points against them: ``theta + displacement`` descends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from fedopt.zeroth_order.settings import LocalOptimizer


class OptimizerState(NamedTuple):
    """State of a local optimiser for a cohort."""

    steps: int  # steps taken
    first: torch.Tensor  # shape [cohort, d]: momentum, or first moment
    second: torch.Tensor  # shape [cohort, d]: second moment (adam)


def init(theta: torch.Tensor) -> OptimizerState:
    """Zero state for iterates ``[cohort, d]``."""
    return OptimizerState(0, torch.zeros_like(theta), torch.zeros_like(theta))


def step(
    settings: LocalOptimizer, state: OptimizerState, gradient: torch.Tensor
) -> tuple[OptimizerState, torch.Tensor]:
    """One step: displacements ``[cohort, d]`` to add to the iterates.

    sgd:  m = momentum m + g;  -lr m            sign: -lr sign(g), elementwise
    adam: m, v moments of g with bias correction; -lr m' / (sqrt(v') + epsilon)

    ``sign`` is ZO-SGD-Sign of the ZeroFlow benchmark; multiplying the direction by the sign of the scalar is
    another method, `fedopt.zeroth_order.spsa.feedsign_vote`.
    """
    if settings.rule == "sign":
        return state._replace(steps=state.steps + 1), gradient.sign().mul_(-settings.learning_rate)
    if settings.rule == "sgd":
        first = gradient + settings.momentum * state.first if settings.momentum else gradient
        return state._replace(steps=state.steps + 1, first=first), first * -settings.learning_rate
    return _adam(settings, state, gradient)


def _adam(
    settings: LocalOptimizer, state: OptimizerState, gradient: torch.Tensor
) -> tuple[OptimizerState, torch.Tensor]:
    count = state.steps + 1
    first = settings.beta1 * state.first + (1 - settings.beta1) * gradient
    second = settings.beta2 * state.second + (1 - settings.beta2) * gradient.square()
    root = (second / (1 - settings.beta2**count)).sqrt_().add_(settings.epsilon)
    displacement = first / (1 - settings.beta1**count) / root * -settings.learning_rate
    return OptimizerState(count, first, second), displacement


def conserve(
    objective: Callable[[torch.Tensor], torch.Tensor], theta: torch.Tensor, displacement: torch.Tensor
) -> torch.Tensor:
    """ZO-Conserve: the best of staying, stepping and stepping back, by value; ties stay. Three queries per client.

    Args:
        objective: points ``[cohort, queries, d]`` to values ``[cohort, queries]``.
        theta, displacement: ``[cohort, d]``.
    Returns:
        The chosen points ``[cohort, d]``; the batch's value never increases.
    """
    choices = torch.stack((theta, theta + displacement, theta - displacement), dim=1)
    best = objective(choices).argmin(dim=1)
    return choices[torch.arange(len(theta), device=theta.device), best]
