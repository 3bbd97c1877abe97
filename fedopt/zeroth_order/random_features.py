"""Random Fourier features from a shared key: a global gradient surrogate that travels as one vector of weights.

    v_j ~ N(0, I / l^2), b_j ~ U[0, 2 pi);   phi(x)_j = sqrt(2/M) cos(v_j . x + b_j);   phi(x) . phi(x') ~ k_SE(x, x')
    weights  w = Phi (Phi^T Phi + ridge I)^-1 y        gradient  d/dx phi(x)^T w

Every party expands the same key, so 8 bytes replace 4 M (d + 1).

Differences from the paper (arXiv:2308.04077): its appendix prints the amplitude 2/sqrt(M); the value used here is
that of its proof and program. The fit has a small ridge where the program has none.
References: Rahimi and Recht 2007, Random features for large-scale kernel machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from fedopt import rng
from fedopt.zeroth_order.directions import Directions, uniform
from fedopt.zeroth_order.gaussian_process import scale_outputs

_SLICE = 512  # features of the fit computed at a time
_KEPT = 1 << 26  # numbers (256 MiB) up to which a fit keeps its features instead of making them twice


class RandomFeatures(NamedTuple):
    """The shared feature map."""

    frequencies: torch.Tensor  # shape [M, d]: v
    phases: torch.Tensor  # shape [M]: b
    narrow: torch.Tensor  # shape [M, d], float32: the frequencies again, for the large products of the fit

    @property
    def amplitude(self) -> float:
        """sqrt(2 / M)."""
        return math.sqrt(2.0 / len(self.phases))


def make(
    dimension: int,
    count: int,
    lengthscale: float,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> RandomFeatures:
    """The feature map of a seed; the same bits for everybody.

    Args:
        dimension: d.
        count: M.
        lengthscale: l of the squared exponential kernel, units of the inputs.
        seed: the shared 64-bit seed.
    """
    stream = Directions("gaussian", count * dimension, rng.key(seed, "random-feature-frequencies"))
    normals = stream.block(0, count * dimension, dtype=torch.float64).view(count, dimension)
    phases = uniform([rng.key(seed, "random-feature-phases")], count)[0] * (2 * math.pi)
    frequencies = (normals / lengthscale).to(device=device, dtype=dtype)
    return RandomFeatures(frequencies, phases.to(device=device, dtype=dtype), frequencies.float())


def features(maps: RandomFeatures, points: torch.Tensor) -> torch.Tensor:
    """phi ``[..., M]`` at points ``[..., d]``."""
    return (points @ maps.frequencies.T + maps.phases).cos_().mul_(maps.amplitude)


def gradient(maps: RandomFeatures, points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Gradient ``[..., d]`` of ``phi(x)^T w`` at ``[..., d]`` for weights ``[M]`` or ``[..., M]``.

    Linear in the weights: a correction is the gradient of the difference of two weight vectors.
    """
    sines = (points @ maps.frequencies.T + maps.phases).sin_()
    return (sines * weights).mul_(-maps.amplitude) @ maps.frequencies


def fit_weights(
    maps: RandomFeatures,
    points: torch.Tensor,
    values: torch.Tensor,
    ridge: float,
    mask: torch.Tensor | None = None,
    centre: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weights ``[cohort, M]`` in units of the outputs; their offset is dropped, as gradients do not need it.

    The Gram matrix is the cost: n^2 M per client. It is formed in float32 from features relative to those of a
    centre, where the numbers are small, and completed in float64 by rank-one terms, so that its error stays
    far below the ridge while the products run at twice the speed or more.

    Args:
        points: ``[cohort, n, d]``, nearby points (within a few length scales of the centre).
        values: ``[cohort, n]`` in any units.
        ridge: > 0, in units of the outputs scaled to [0, 1].
        mask: ``[cohort, n]`` bool, False for padding.
        centre: ``[cohort, d]``; default the mean of the points.

    Guarantees: a client whose points, values or centre are not finite gets weights of NaN; the others' bits stay.
    """
    mask = torch.ones(values.shape, dtype=torch.bool, device=values.device) if mask is None else mask
    if centre is None:
        centre = (points * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    scaled, _, span = scale_outputs(values, mask)
    base = centre @ maps.frequencies.T + maps.phases  # [cohort, M]
    offsets = (points - centre[:, None, :]).float() * mask[..., None]
    changes = _Changes(maps, offsets, base)
    gram = _gram(maps, changes, base, mask.to(points.dtype))
    added = torch.where(mask, torch.full_like(scaled, ridge), torch.ones_like(scaled))
    factor, failed = torch.linalg.cholesky_ex(gram + torch.diag_embed(added))
    if bool((failed > 0).any()):
        known = offsets.isfinite().all((1, 2)) & base.isfinite().all(1)
        if bool(((failed > 0) & known).any()):  # too far apart for float32 products: the matrix of float64 features
            exact = features(maps, centre[:, None, :] + offsets.to(points.dtype)) * mask[..., None]
            factor, failed = torch.linalg.cholesky_ex(exact @ exact.mT + torch.diag_embed(added))
        factor = factor.masked_fill((failed > 0)[:, None, None], torch.nan)
    alpha = torch.cholesky_solve(scaled[..., None], factor).squeeze(-1) * mask
    weights = alpha.sum(1, keepdim=True) * base.cos() * maps.amplitude
    for piece, change in changes:
        weights[:, piece] += (alpha.float()[:, None, :] @ change).squeeze(1)
    return weights * span[:, None]


def _gram(maps: RandomFeatures, changes: _Changes, base: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
    """Phi^T Phi ``[cohort, n, n]``: float32 products of small numbers, then rank-one terms of the centre."""
    cohort, size = ones.shape
    narrow, along = ones.new_zeros(cohort, size, size, dtype=torch.float32), torch.zeros_like(ones)
    cosines = base.cos() * maps.amplitude
    for piece, change in changes:
        narrow.baddbmm_(change, change.mT)
        along += (change @ cosines[:, piece, None].float()).squeeze(-1)
    gram = narrow.to(ones.dtype)
    gram += along[:, :, None] * ones[:, None, :] + ones[:, :, None] * along[:, None, :]
    gram += cosines.square().sum(1)[:, None, None] * ones[:, :, None] * ones[:, None, :]
    return gram


class _Changes:
    """phi(x) - phi(centre) slice by slice, made once and kept where they fit, else made anew on every walk."""

    def __init__(self, maps: RandomFeatures, offsets: torch.Tensor, base: torch.Tensor) -> None:
        self._make = lambda piece: (piece, _feature_change(maps, offsets, base, piece))
        self._pieces = [slice(first, first + _SLICE) for first in range(0, base.shape[-1], _SLICE)]
        small = offsets.shape[0] * offsets.shape[1] * base.shape[-1] <= _KEPT
        self._kept = [self._make(piece) for piece in self._pieces] if small else None

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        return iter(self._kept) if self._kept is not None else map(self._make, self._pieces)


def _feature_change(maps: RandomFeatures, offsets: torch.Tensor, base: torch.Tensor, piece: slice) -> torch.Tensor:
    """phi(x) - phi(centre) in float32 ``[cohort, n, slice]``: -2 sin(base + half) sin(half), without cancellation."""
    half = (offsets * 0.5) @ maps.narrow[piece].T
    reduced = torch.remainder(base[:, None, piece], 2 * math.pi).float()
    return (half + reduced).sin_().mul_(half.sin_()).mul_(-2 * maps.amplitude)
