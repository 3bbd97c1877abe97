"""Gradient estimates from function values, for a whole cohort and all its perturbations in one batch.

An objective maps points ``[cohort, queries, d]`` to values ``[cohort, queries]``; row i belongs to client i. Each
kind of direction has the factor that makes its estimate unbiased as the radius goes to 0; ``orthogonal_unscaled``
is named for what it lacks.

| directions | factor | E|g|^2 / |grad|^2 with n directions |
|---|---|---|
| gaussian | 1 | (d + n + 1) / n |
| rademacher, sphere | 1, d | (d + n - 1) / n |
| orthogonal | d | d / n |
| coordinate | d | (d + n - 1) / n |
| distinct_coordinates | n | n / d: n partial derivatives as they are, zero elsewhere (DeepZero's sparse estimate) |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch

from fedopt.zeroth_order import directions as streams

Objective = Callable[[torch.Tensor], torch.Tensor]
EstimatorKind = Literal[
    "gaussian", "rademacher", "sphere", "orthogonal", "orthogonal_unscaled", "coordinate", "distinct_coordinates"
]
Scheme = Literal["forward", "central", "one_point"]


class Estimate(NamedTuple):
    """Estimated gradients of a cohort and what they cost."""

    gradient: torch.Tensor  # shape [cohort, d]
    slopes: torch.Tensor  # shape [cohort, count]: the projected gradients
    base: torch.Tensor | None  # shape [cohort]: value at the point itself (forward scheme)
    queries: int  # function values per client


def factor(kind: EstimatorKind, dimension: int, count: int = 1) -> float:
    """What the mean of slope times direction is multiplied by: d for unit-length directions, else 1.

    ``distinct_coordinates`` take their number ``count``, so that every measured partial derivative stands as it is.
    """
    if kind == "distinct_coordinates":
        return float(count)
    return float(dimension) if kind in ("sphere", "orthogonal", "coordinate") else 1.0


def draw(
    kind: EstimatorKind,
    dimension: int,
    keys: Sequence[int],
    count: int,
    first_index: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Directions ``[len(keys), count, d]``, one stream per client."""
    if kind == "orthogonal" or kind == "orthogonal_unscaled":
        return streams.orthonormal(dimension, keys, count, first_index, device, dtype)
    if kind == "distinct_coordinates":
        return streams.distinct_coordinates(dimension, keys, count, first_index, device, dtype)
    return streams.batch(kind, dimension, keys, count, first_index, device, dtype)


def estimate(
    objective: Objective,
    points: torch.Tensor,
    directions: torch.Tensor,
    radius: float,
    scheme: Scheme = "forward",
    factor: float = 1.0,
    queries_per_call: int | None = None,
) -> Estimate:
    """Finite-difference estimate along given directions: ``factor / n * sum_k slope_k u_k``.

        forward:   slope_k = (f(x + r u_k) - f(x)) / r          n + 1 queries
        central:   slope_k = (f(x + r u_k) - f(x - r u_k)) / 2r  2 n queries
        one_point: slope_k = f(x + r u_k) / r                    n queries; variance ~ f(x)^2 / r^2

    Args:
        objective: values of points; the same data must be behind all queries of one call of this function.
        points: ``[cohort, d]``.
        directions: ``[cohort, n, d]``.
        radius: r > 0, in units of the points.
        scheme: see above.
        factor: from `factor`.
        queries_per_call: evaluates that many queries per client at a time, to bound memory; default all at once.
    """
    if radius <= 0:
        raise ValueError(f"the smoothing radius must be > 0, got {radius}")
    count, centre = directions.shape[1], points[:, None, :]
    ahead = centre + radius * directions
    if scheme == "forward":
        values = evaluate(objective, torch.cat((centre, ahead), dim=1), queries_per_call)
        base, slopes = values[:, 0], (values[:, 1:] - values[:, :1]) / radius
    elif scheme == "central":
        values = evaluate(objective, torch.cat((ahead, centre - radius * directions), dim=1), queries_per_call)
        base, slopes = None, (values[:, :count] - values[:, count:]) / (2 * radius)
    else:
        values = evaluate(objective, ahead, queries_per_call)
        base, slopes = None, values / radius
    gradient = torch.einsum("cn,cnd->cd", slopes, directions) * (factor / count)
    return Estimate(gradient, slopes, base, values.shape[1])


def coordinate_estimate(
    objective: Objective,
    points: torch.Tensor,
    radius: float,
    coordinates: torch.Tensor | None = None,
    central: bool = False,
    queries_per_call: int | None = None,
) -> Estimate:
    """Coordinate-wise estimate (CGE): one partial derivative per listed coordinate, zero elsewhere.

    Args:
        objective: values of points.
        points: ``[cohort, d]``.
        radius: r > 0.
        coordinates: ``[n]`` int64, the coordinates of a sparse estimate, for example one worker's share; default
            all. Estimates over disjoint shares add up to the estimate over their union.
        central: two-sided differences, 2 n queries instead of n + 1.
        queries_per_call: see `estimate`.
    """
    dimension = points.shape[1]
    chosen = torch.arange(dimension, device=points.device) if coordinates is None else coordinates
    unit = torch.zeros(len(chosen), dimension, device=points.device, dtype=points.dtype)
    unit[torch.arange(len(chosen), device=points.device), chosen] = 1
    scheme: Scheme = "central" if central else "forward"
    directions = unit.expand(len(points), -1, -1)
    return estimate(objective, points, directions, radius, scheme, float(len(chosen)), queries_per_call)


def forward_gradient(objective: Objective, points: torch.Tensor, directions: torch.Tensor) -> Estimate:
    """Forward gradient: exact directional derivatives by forward-mode differentiation, no radius.

    ``(1/n) sum_k (grad f . v_k) v_k``, unbiased for directions of zero mean and unit covariance. All directions
    are tangents of one batched pass; ``queries`` counts n passes.

    References: Baydin et al. 2022, Gradients without backpropagation, arXiv:2202.08587.
    """
    repeated = points[:, None, :].expand_as(directions).contiguous()
    with warnings.catch_warnings():
        # PyTorch compiles its own forward-mode rules with a function that it has deprecated.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.* is deprecated", category=DeprecationWarning)
        made: tuple[torch.Tensor, torch.Tensor] = torch.func.jvp(objective, (repeated,), (directions,))  # type: ignore[assignment]
    values, slopes = made
    gradient = torch.einsum("cn,cnd->cd", slopes, directions.expand(len(slopes), -1, -1)) / directions.shape[1]
    return Estimate(gradient, slopes, values[:, 0], directions.shape[1])


def evaluate(objective: Objective, points: torch.Tensor, queries_per_call: int | None = None) -> torch.Tensor:
    """Values ``[cohort, queries]``, in one call or in calls of bounded size.

    Raises:
        ValueError: the objective returns another shape than one value per point.
    """
    size = queries_per_call or points.shape[1]
    values = torch.cat([objective(part) for part in points.split(size, dim=1)], dim=1)
    if values.shape != points.shape[:2]:
        raise ValueError(
            f"the objective returned shape {tuple(values.shape)} for points {tuple(points.shape)}; it must return "
            f"one value per point, {tuple(points.shape[:2])}"
        )
    return values
