"""FedKSeed and FedKSeed-Pro: K directions for the whole run, a global model of K accumulated scalars.

    theta_r = theta_0 - step_size * sum_j A_j z_j

Every local change is linear in the z_j, so in exact arithmetic this is FedAvg of the locally trained models, as long
as the step size is constant and there is no weight decay.

References: Qin et al. 2024, arXiv:2312.06353. Pro's probabilities are those of the authors' program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from fedopt import rng
from fedopt.zeroth_order.directions import DirectionKind, Directions
from fedopt.zeroth_order.seed_log import Record, apply_
from fedopt.zeroth_order.spsa import Losses, own_scalars

_PRO_CLIP = 1000.0


class LocalWork(NamedTuple):
    """What a cohort's local training produced; (seeds, scalars) is the message: 8 bytes per kept step."""

    seeds: torch.Tensor  # shape [cohort, steps], int64: direction numbers below K
    scalars: torch.Tensor  # shape [cohort, steps], float32; 0 where the step was skipped, NaN if no loss was finite
    kept: torch.Tensor  # shape [cohort, steps], bool: steps that were not skipped
    models: torch.Tensor  # shape [cohort, d]: the local models, not sent
    queries: int  # evaluations per client


class ProHistory(NamedTuple):
    """Pro's record of how large the scalars of every seed were; starts with one zero each."""

    totals: torch.Tensor  # shape [K]: sums of clipped absolute scalars
    counts: torch.Tensor  # shape [K]


def candidate_directions(kind: DirectionKind, dimension: int, seed: int) -> Directions:
    """The run's fixed stream; its first K directions are the candidates."""
    return Directions(kind, dimension, rng.key(seed, "fedkseed-candidates"))


def build_model(
    start: torch.Tensor, accumulated: torch.Tensor, candidates: Directions, step_size: float
) -> torch.Tensor:
    """theta ``[d]`` from theta_0 ``[d]`` and A ``[K]``: at most K expansions, however long the run was."""
    records = [
        Record(0, candidates.key, (scalar,), step_size, index)
        for index, scalar in enumerate(accumulated.tolist())
        if scalar != 0
    ]
    return apply_(start.clone(), candidates.kind, records)


def choose_seeds(
    seed: int, clients: Sequence[int], round_number: int, steps: int, count: int,
    probabilities: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Direction numbers ``[cohort, steps]``, uniform below K or with Pro's probabilities ``[K]``."""
    weights = None if probabilities is None else (probabilities.double() / probabilities.double().sum()).numpy()
    rows = [
        rng.generator(seed, "fedkseed-choices", client, round_number).choice(count, size=steps, p=weights)
        for client in clients
    ]
    return torch.stack([torch.from_numpy(row) for row in rows])


def local_training(
    theta: torch.Tensor,
    candidates: Directions,
    seeds: torch.Tensor,
    radius: float,
    step_size: float,
    losses_at: Callable[[int], Losses],
    loss_clip: float = 0.0,
    weight_decay: float = 0.0,
) -> LocalWork:
    """tau local steps of every client, each along one candidate direction.

    Args:
        theta: ``[d]``, the round's model.
        candidates: from `candidate_directions`.
        seeds: ``[cohort, tau]`` from `choose_seeds`.
        radius: > 0.
        step_size: the constant step size of the run.
        losses_at: the objective of local step t, points ``[cohort, 2, d]`` to ``[cohort, 2]``.
        loss_clip: > 0 skips a step whose two losses differ by more.
        weight_decay: breaks the equivalence with FedAvg; here to show that.

    A step with a loss that is not finite is skipped. A client that met nothing else has learned nothing: all its
    scalars are NaN.
    """
    models, sent, kept, finite = theta.repeat(len(seeds), 1), [], [], []
    streams = [candidates] * len(seeds)
    for step, numbers in enumerate(seeds.T.tolist()):
        scalars = own_scalars(models, streams, radius, losses_at(step), numbers)
        finite.append(scalars.isfinite())
        skip = ~finite[-1]
        if loss_clip > 0:
            skip |= scalars.abs() * (2 * radius) > loss_clip
        scalars = scalars.masked_fill(skip, 0.0)
        sent.append(scalars)
        kept.append(~skip)
        for model, number, scalar in zip(models, numbers, scalars.tolist(), strict=True):
            if weight_decay:
                model.mul_(1 - step_size * weight_decay)
            apply_(model, candidates.kind, [Record(0, candidates.key, (scalar,), step_size, number)])
    told = torch.stack(sent, dim=1).masked_fill(~torch.stack(finite).any(0)[:, None], torch.nan)
    return LocalWork(seeds, told, torch.stack(kept, dim=1), models, 2 * seeds.shape[1])


def accumulate(accumulated: torch.Tensor, work: LocalWork, weights: torch.Tensor) -> torch.Tensor:
    """A + sum_i weight_i a^(i): ``[K]`` float64, from the pairs of the cohort and weights ``[cohort]`` summing to 1."""
    weighted = work.scalars.double() * weights.double()[:, None]
    return accumulated.double().index_add(0, work.seeds.flatten(), weighted.flatten())


def pro_start(count: int) -> ProHistory:
    """History before the first round."""
    return ProHistory(torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64))


def pro_update(history: ProHistory, work: LocalWork) -> ProHistory:
    """History with the cohort's scalars added, clipped to 1000 in size; skipped steps measured nothing."""
    size = work.scalars.double().abs().clamp(max=_PRO_CLIP).flatten()
    seeds = work.seeds.flatten()
    return ProHistory(
        history.totals.index_add(0, seeds, size), history.counts.index_add(0, seeds, work.kept.flatten().to(size))
    )


def pro_probabilities(history: ProHistory) -> torch.Tensor:
    """softmax of the min-max scaled mean sizes: ``[K]``."""
    mean = history.totals / history.counts
    return torch.softmax((mean - mean.min()) / (mean.max() - mean.min() + 1e-10), dim=0)
