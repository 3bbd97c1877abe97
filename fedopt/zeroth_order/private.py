"""Private zeroth order: clip what each record says about public directions, add noise from another stream.

    DPZero    s = sum_x clip_c(D(x)) + N(0, (m c)^2)                 one direction
    AggZO     a = sum_x clip_c((D_1(x), ..., D_K(x)) / K) + N(0, (m c)^2 I_K)     the vector is clipped
    step      theta <- theta - (step_size / b) sum_k a_k z_k,  b a public constant

with D_k(x) = (L(theta + r z_k; x) - L(theta - r z_k; x)) / 2r per example. The sum moves by at most c when a record is
added or removed and by 2c when one is replaced, whatever K is. Directions are public; the noise must not be a
function of them, so it comes from a stream with another name and the functions here refuse the directions' key.
Released scalars may be logged and replayed at no further cost.

References: Zhang et al. 2024, arXiv:2310.09639 (DPZero); Tang et al. 2024, arXiv:2401.04343 (DP-ZO, Laplace); Bao et
al. 2025, USENIX Security (DP-AggZO; its algorithm line prints the reciprocal clipping factor, its text this one).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch

from fedopt import rng
from fedopt.zeroth_order.seed_log import Record

Relation = Literal["add_or_remove_one", "zero_out_one", "replace_one"]
_NOISE = "private-scalar-noise"


class Clipped(NamedTuple):
    """A clipped sum and how far one record can move it."""

    total: torch.Tensor  # shape [K], float64
    bound: float  # L2 (for K = 1 also L1) norm of one record's share
    clip_fraction: float  # simulator only: a further release if published


class Released(NamedTuple):
    """Noisy scalars that may be published, logged and replayed."""

    scalars: torch.Tensor  # shape [K], float64
    noise_std: float


def clip(scalars: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """Rows ``[records, K]`` scaled down to length ``clipping_norm``; for K = 1 this clips each scalar.

    Zero rows stay zero. Rows with NaN or infinity become zero: they must not reach the sum.
    """
    if clipping_norm <= 0:
        raise ValueError(f"the clipping norm must be > 0, got {clipping_norm}")
    finite = torch.isfinite(scalars).all(-1, keepdim=True)
    rows = torch.where(finite, scalars, torch.zeros_like(scalars)).double()
    if math.isinf(clipping_norm):
        return rows
    norms = rows.norm(dim=-1, keepdim=True)
    return rows * (clipping_norm / norms.clamp(min=clipping_norm))


def clipped_sum(differences: torch.Tensor, clipping_norm: float) -> Clipped:
    """Sum over records of clipped ``D / K`` ``[records, K]``: DPZero for K = 1, DP-AggZO beyond.

    An empty batch sums to zero and must be released all the same.
    """
    rows = differences.double() / differences.shape[1]
    cut = clip(rows, clipping_norm)
    fraction = float((rows.norm(dim=1) > clipping_norm).double().mean()) if len(rows) else 0.0
    return Clipped(cut.sum(0), clipping_norm, fraction)


def sensitivity(bound: float, relation: Relation) -> float:
    """How far one record moves the sum: the bound, twice it for replace_one."""
    return 2 * bound if relation == "replace_one" else bound


def noise_key(seed: int, step: int, *ids: int) -> int:
    """Stream of a step's privacy noise; never the stream of a direction."""
    return rng.key(seed, _NOISE, step, *ids)


def release_gaussian(
    clipped: Clipped, noise_multiplier: float, relation: Relation, noise: int, direction: int
) -> Released:
    """The sum plus N(0, (noise_multiplier * sensitivity)^2) per scalar.

    Args:
        clipped: from `clipped_sum`.
        noise_multiplier: noise std over L2 sensitivity; 0 adds nothing (and protects nothing).
        relation: decides the sensitivity, for which the accountant must be asked with the same relation.
        noise: from `noise_key`.
        direction: key of the public directions, refused as a source of noise.
    Raises:
        ValueError: noise for a sum that is not bounded.
    """
    if noise_multiplier > 0 and math.isinf(clipped.bound):
        raise ValueError("no noise hides an unbounded record; set a finite clipping norm")
    std = noise_multiplier * sensitivity(clipped.bound, relation) if noise_multiplier > 0 else 0.0
    draws = _source(noise, direction).standard_normal(clipped.total.shape)
    return Released(clipped.total + std * torch.from_numpy(draws).to(clipped.total.device), std)


def release_laplace(clipped: Clipped, epsilon: float, relation: Relation, noise: int, direction: int) -> Released:
    """The sum plus Laplace noise of scale sqrt(K) * sensitivity / epsilon: pure epsilon-DP per step.

    The L1 sensitivity of K scalars with an L2 bound is sqrt(K) times as large; for one scalar they agree.
    """
    if epsilon <= 0:
        raise ValueError(f"the epsilon of a step must be > 0, got {epsilon}")
    scale = math.sqrt(len(clipped.total)) * sensitivity(clipped.bound, relation) / epsilon
    draws = _source(noise, direction).laplace(size=clipped.total.shape)
    return Released(clipped.total + scale * torch.from_numpy(draws).to(clipped.total.device), math.sqrt(2) * scale)


def amplified_epsilon(epsilon: float, sampling_probability: float) -> float:
    """Pure epsilon of one step on a Poisson sample, add_or_remove_one: ln(1 + q (e^epsilon - 1))."""
    return math.log1p(sampling_probability * math.expm1(epsilon))


def record_of(released: Released, step: int, direction: int, step_size: float, normaliser: float) -> Record:
    """The update as a seed-log record: step_size / b times each released scalar.

    Args:
        normaliser: b, a public constant (the expected batch size), never the size of the batch drawn.
    """
    if normaliser <= 0:
        raise ValueError(f"the normaliser must be a positive public constant, got {normaliser}")
    return Record(step, direction, tuple(released.scalars.tolist()), step_size / normaliser)


def client_scalar(differences: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """Client-level unit: the clipped mean over a client's records, ``[records, K]`` to ``[K]``."""
    return clip(differences.double().mean(0, keepdim=True), clipping_norm)[0]


def distributed_share_std(noise_multiplier: float, l2_sensitivity: float, surviving_clients: int) -> float:
    """Noise std each of m clients adds so that the sum has the central noise: m must count only survivors."""
    if surviving_clients < 1:
        raise ValueError("distributed noise needs at least one surviving client; abort the step instead")
    return noise_multiplier * l2_sensitivity / math.sqrt(surviving_clients)


def dpzero_noise_std(clipping_norm: float, records: int, steps: int, epsilon: float, delta: float) -> float:
    """Closed form of DPZero's analysis: std on the mean, full batches, replace_one.

    4 c sqrt(2 T ln(e + epsilon/delta)) / (n epsilon). Loose (about 2x against a numerical accountant) and, checked
    against the exact Gaussian curve, sufficient up to epsilon 80 only.

    Raises:
        ValueError: epsilon above 80, where the rule is known to fail.
    """
    if not 0 < epsilon <= 80:
        raise ValueError(f"DPZero's closed form is not valid for epsilon {epsilon}; use the accountant")
    return 4 * clipping_norm * math.sqrt(2 * steps * math.log(math.e + epsilon / delta)) / (records * epsilon)


def private_vote(scalars: torch.Tensor, epsilon: float, noise: int, direction: int) -> float:
    """FeedSign's vote by the exponential mechanism: epsilon-DP for replacing one client's sign.

    P(+1) = 1 / (1 + exp(-epsilon (n+ - n-) / 2)). A zero scalar counts as +1, so that everybody has a sign. The
    paper's own form could not be confirmed. Simulation only: the draw has 53 bits.
    """
    excess = 2 * int((scalars >= 0).sum()) - len(scalars)
    exponent = min(-epsilon * excess / 2, 700.0)
    return 1.0 if _source(noise, direction).random() < 1 / (1 + math.exp(exponent)) else -1.0


def _source(noise: int, direction: int) -> np.random.Generator:
    if noise == direction:
        raise ValueError("privacy noise drawn from the public direction stream protects nothing; use noise_key")
    return np.random.Generator(np.random.Philox(key=noise))
