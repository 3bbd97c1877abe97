"""Derived Gaussian processes: the gradient of a function predicted from its past values, batched over clients.

With kernel k, inputs x_1..x_n, A = K + ridge I and alpha = A^-1 y:

    gradient surrogate     sum_tau alpha_tau d/dx k(x, x_tau)
    its covariance         d/dx d/dx' k - J^T A^-1 J,     J = [d/dx k(x, x_tau)]  [n, d]

Both kernels have d/dx k(x, x_tau) = slope(|x - x_tau|) (x - x_tau), which is all the code needs. Candidates are
ranked by the trace of the covariance: its spectral norm equals the prior variance at every point while n < d.

References: Shu et al. 2023, Zeroth-order optimization with trajectory-informed derivative estimation (ICLR);
Shu et al. 2023, arXiv:2308.04077, section on local surrogates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

Kernel = Literal["squared_exponential", "matern52"]
_ROOT5 = math.sqrt(5.0)


class Surrogate(NamedTuple):
    """Fitted processes of a cohort. Padding rows have ``mask`` False and no influence."""

    kernel: Kernel
    lengthscale: torch.Tensor  # shape [cohort]
    points: torch.Tensor  # shape [cohort, n, d], relative to origin
    origin: torch.Tensor  # shape [cohort, d]: the fit's centre, keeps squared distances accurate
    gram: torch.Tensor  # shape [cohort, n, n]: inner products of points
    mask: torch.Tensor  # shape [cohort, n], bool
    inverse: torch.Tensor  # shape [cohort, n, n]: A^-1, zero outside the mask
    alpha: torch.Tensor  # shape [cohort, n]: A^-1 y for scaled outputs
    offset: torch.Tensor  # shape [cohort]: smallest output
    scale: torch.Tensor  # shape [cohort]: range of the outputs


def prior_curvature(kernel: Kernel, lengthscale: torch.Tensor) -> torch.Tensor:
    """kappa, prior variance of one partial derivative: 1/l^2, or 5/(3 l^2) for Matern-5/2."""
    return (1.0 if kernel == "squared_exponential" else 5.0 / 3.0) / lengthscale.square()


def kernel_value_and_slope(
    kernel: Kernel, squared: torch.Tensor, lengthscale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """k and slope as functions of squared distances, where d/dx k(x, x') = slope (x - x').

    squared exponential: k = exp(-s/2l^2), slope = -k/l^2;
    Matern-5/2 with r = sqrt(5 s)/l: k = (1 + r + r^2/3) e^-r, slope = -5/(3 l^2) (1 + r) e^-r.
    """
    if kernel == "squared_exponential":
        value = (squared / (-2 * lengthscale.square())).exp()
        return value, value / -lengthscale.square()
    radius = squared.sqrt() * (_ROOT5 / lengthscale)
    decay = (-radius).exp()
    slope = (1 + radius) * decay * (-5.0 / 3.0) / lengthscale.square()
    return (1 + radius + radius.square() / 3) * decay, slope


def scale_outputs(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs mapped to [0, 1] per client: (scaled ``[cohort, n]``, offset ``[cohort]``, range ``[cohort]``).

    Equal outputs have the range 1e-20 and scale to 0, so their gradient is 0.
    """
    low = values.masked_fill(~mask, torch.inf).amin(1)
    span = values.masked_fill(~mask, -torch.inf).amax(1) - low + 1e-20
    scaled = ((values - low[:, None]) / span[:, None]).masked_fill(~mask, 0.0)
    return scaled, low, span


def fit(
    points: torch.Tensor,
    values: torch.Tensor,
    kernel: Kernel,
    lengthscale: torch.Tensor,
    ridge: float,
    mask: torch.Tensor | None = None,
    origin: torch.Tensor | None = None,
) -> Surrogate:
    """Fit one process per client with one batched Cholesky factorisation.

    Args:
        points: ``[cohort, n, d]`` inputs.
        values: ``[cohort, n]`` outputs in any units.
        kernel: covariance function, unit amplitude.
        lengthscale: ``[cohort]``, units of the inputs.
        ridge: noise variance in units of the scaled outputs, > 0.
        mask: ``[cohort, n]`` bool, False for padding; default all True.
        origin: ``[cohort, d]`` centre near which the surrogate will be used; default the first point.

    Guarantees: a client whose points or values are not finite gets a surrogate of NaN; the others' bits stay.
    """
    mask = torch.ones(values.shape, dtype=torch.bool, device=values.device) if mask is None else mask
    origin = points[:, 0] if origin is None else origin
    centred = points - origin[:, None, :]
    gram = centred @ centred.mT
    factor = _cholesky(kernel, gram, lengthscale[:, None, None], ridge, mask)
    scaled, low, span = scale_outputs(values, mask)
    inverse = torch.cholesky_inverse(factor) * (mask[:, :, None] & mask[:, None, :])
    alpha = torch.cholesky_solve(scaled[..., None], factor).squeeze(-1)
    return Surrogate(kernel, lengthscale, centred, origin, gram, mask, inverse, alpha, low, span)


def mean(surrogate: Surrogate, points: torch.Tensor) -> torch.Tensor:
    """Predicted values ``[cohort, q]`` at ``[cohort, q, d]``, in the units of the outputs."""
    value, _ = _cross(surrogate, points - surrogate.origin[:, None, :])
    scaled = torch.einsum("cqn,cn->cq", value, surrogate.alpha)
    return scaled * surrogate.scale[:, None] + surrogate.offset[:, None]


def gradient(surrogate: Surrogate, points: torch.Tensor) -> torch.Tensor:
    """Predicted gradients ``[cohort, q, d]`` at ``[cohort, q, d]``, in units of outputs per unit of inputs."""
    relative = points - surrogate.origin[:, None, :]
    _, slope = _cross(surrogate, relative)
    weights = slope * surrogate.alpha[:, None, :]
    made = weights.sum(-1, keepdim=True) * relative - weights @ surrogate.points
    return made * surrogate.scale[:, None, None]


def trace_uncertainty(surrogate: Surrogate, points: torch.Tensor) -> torch.Tensor:
    """Trace of the gradient's covariance ``[cohort, q]``, for scaled outputs, at ``[cohort, q, d]``.

        d kappa - sum_{tau, tau'} [A^-1]_{tau tau'} s_tau s_tau' (x - x_tau).(x - x_tau')

    The inner products expand into |x|^2, x.x_tau and the Gram matrix of the fit, so a candidate costs O(n^2 + n d)
    and no Jacobian is formed.
    """
    relative = points - surrogate.origin[:, None, :]
    _, slope = _cross(surrogate, relative)
    projected = slope * (relative @ surrogate.points.mT)
    solved = slope @ surrogate.inverse
    explained = (solved * slope).sum(-1) * relative.square().sum(-1) - 2 * (solved * projected).sum(-1)
    explained += ((slope @ (surrogate.inverse * surrogate.gram)) * slope).sum(-1)
    return points.shape[-1] * _kappa(surrogate)[:, None] - explained


def first_partial_uncertainty(surrogate: Surrogate, points: torch.Tensor) -> torch.Tensor:
    """Variance of the first partial derivative ``[cohort, q]``: the reference program's score of candidates.

    Difference: the program uses a squared exponential kernel here whatever the fit's kernel; this uses the fit's.
    """
    relative = points - surrogate.origin[:, None, :]
    _, slope = _cross(surrogate, relative)
    row = slope * (relative[:, :, None, 0] - surrogate.points[:, None, :, 0])
    return _kappa(surrogate)[:, None] - ((row @ surrogate.inverse) * row).sum(-1)


def gradient_covariance(surrogate: Surrogate, points: torch.Tensor) -> torch.Tensor:
    """Full covariance of the gradient ``[cohort, d, d]`` at ``[cohort, d]``, for scaled outputs."""
    relative = points - surrogate.origin
    _, slope = _cross(surrogate, relative[:, None, :])
    jacobian = slope[:, 0, :, None] * (relative[:, None, :] - surrogate.points)
    prior = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device) * _kappa(surrogate)[:, None, None]
    return prior - jacobian.mT @ surrogate.inverse @ jacobian


def choose_lengthscale(
    points: torch.Tensor,
    values: torch.Tensor,
    kernel: Kernel,
    choices: Sequence[float],
    ridge: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Per client, the length scale of largest marginal likelihood: ``[cohort]``, one batched factorisation.

    Scaled outputs, zero prior mean, unit amplitude. Ties go to the earlier choice.
    """
    grid = torch.tensor(choices, dtype=points.dtype, device=points.device)
    if len(choices) == 1:
        return grid.expand(len(points)).clone()
    mask = torch.ones(values.shape, dtype=torch.bool, device=values.device) if mask is None else mask
    centred = points - points[:, :1]
    gram = (centred @ centred.mT)[:, None]
    factor = _cholesky(kernel, gram, grid[None, :, None, None], ridge, mask[:, None])
    scaled = scale_outputs(values, mask)[0]
    whitened = torch.linalg.solve_triangular(
        factor, scaled[:, None, :, None].expand(-1, len(grid), -1, -1), upper=False
    )
    half_log_determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    likelihood = -0.5 * whitened.square().sum((-2, -1)) - half_log_determinant
    return grid[likelihood.nan_to_num(nan=-torch.inf).argmax(1)]


def _cholesky(
    kernel: Kernel, gram: torch.Tensor, lengthscale: torch.Tensor, ridge: float, mask: torch.Tensor
) -> torch.Tensor:
    """Lower factor of K + ridge I; rows outside the mask are those of the identity. NaN where there is none, which
    says so without waiting for the device: a client with such points must not end the round of the others.
    """
    norms = gram.diagonal(dim1=-2, dim2=-1)
    squared = (norms[..., :, None] + norms[..., None, :] - 2 * gram).clamp_min_(0)
    value, _ = kernel_value_and_slope(kernel, squared, lengthscale)
    value = value * (mask[..., :, None] & mask[..., None, :])
    diagonal = (1 + ridge * mask.to(value.dtype)).expand(value.shape[:-1])
    factor, failed = torch.linalg.cholesky_ex(value.diagonal_scatter(diagonal, dim1=-2, dim2=-1))
    return factor.masked_fill_((failed > 0)[..., None, None], torch.nan)


def _cross(surrogate: Surrogate, relative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """k and slope ``[cohort, q, n]`` between points (relative to the origin) and inputs, zero for padding."""
    norms = surrogate.gram.diagonal(dim1=-2, dim2=-1)[:, None, :]
    squared = relative.square().sum(-1, keepdim=True) + norms - 2 * (relative @ surrogate.points.mT)
    lengthscale = surrogate.lengthscale[:, None, None]
    value, slope = kernel_value_and_slope(surrogate.kernel, squared.clamp_min_(0), lengthscale)
    keep = surrogate.mask[:, None, :]
    return value * keep, slope * keep


def _kappa(surrogate: Surrogate) -> torch.Tensor:
    return prior_curvature(surrogate.kernel, surrogate.lengthscale)
