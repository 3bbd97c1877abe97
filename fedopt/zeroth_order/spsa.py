"""Shared-seed SPSA: the pure steps of MeZO, Just-One-Byte, DeComFL and FeedSign on the seed log.

An objective maps points ``[cohort or 1, queries, d]`` to losses ``[cohort, queries]``: a leading 1 means that all
clients evaluate the same points, each on its own batch. Both evaluations of a direction use the same batch.

Directions are common to all clients (MeZO, DeComFL, FeedSign: only data noise averages out) or a worker's own
(Just-One-Byte: direction variance falls too).

References: Malladi et al. 2023, arXiv:2305.17333 (MeZO); Zelikman et al. 2023, arXiv:2306.10015 (Just One Byte);
Li et al. 2024, arXiv:2405.15861 (DeComFL); Cai et al. 2025, arXiv:2501.17610 (FeedSign).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch

from fedopt import rng
from fedopt.zeroth_order import one_byte
from fedopt.zeroth_order.directions import DirectionKind, Directions
from fedopt.zeroth_order.estimators import forward_gradient
from fedopt.zeroth_order.seed_log import Record, apply_

_AT_ONCE = 1 << 20  # numbers in the perturbed models of one call; small models are evaluated in one batch
Losses = Callable[[torch.Tensor], torch.Tensor]
Scheme = Literal["central", "forward", "jvp"]


def direction_key(seed: int, *ids: int) -> int:
    """Key of a public direction stream, for example by (step) or (step, worker): hashed, never added up."""
    return rng.key(seed, "public-directions", *ids)


def directions_at_once(dimension: int, models: int = 1) -> int:
    """Directions whose perturbed pairs for ``models`` models fit into one evaluation, >= 1."""
    return max(1, _AT_ONCE // (2 * dimension * models))


def common_scalars(
    theta: torch.Tensor,
    directions: Directions,
    radius: float,
    losses: Losses,
    count: int = 1,
    first_index: int = 0,
    scheme: Scheme = "central",
) -> torch.Tensor:
    """Projected gradients ``[cohort, count]`` (float32) of every client along common directions.

    Args:
        theta: ``[d]``, the model all clients share; not changed.
        directions: the common stream.
        radius: > 0, in units of the parameters.
        losses: see the module.
        count: directions; as many in one evaluation as `directions_at_once` says, one for a large model.
        first_index: number of the first direction.
        scheme: ``central`` 2 evaluations per direction, ``forward`` count + 1 in all, ``jvp`` one exact directional
            derivative per direction (forward gradients).
    """
    if scheme == "jvp":
        exact = [_derivative(theta[None], [directions], losses, [i]) for i in range(first_index, first_index + count)]
        return torch.stack(exact, dim=1)
    base = losses(theta[None, None]).double() if scheme == "forward" else None
    columns = []
    for indices in torch.arange(first_index, first_index + count).split(directions_at_once(theta.numel())):
        made = [directions.pair(theta, radius, index) for index in indices.tolist()]
        pairs = made[0][None] if len(made) == 1 else torch.stack(made)  # [n, 2, d]
        if base is None:
            values = losses(pairs.flatten(0, 1)[None]).double().unflatten(1, (-1, 2))
            columns.append((values[..., 0] - values[..., 1]) / (2 * radius))
        else:
            columns.append((losses(pairs[None, :, 0]).double() - base) / radius)
    return torch.cat(columns, dim=1).float()


def own_scalars(
    thetas: torch.Tensor,
    directions: Sequence[Directions],
    radius: float,
    losses: Losses,
    indices: Sequence[int],
    scheme: Scheme = "central",
) -> torch.Tensor:
    """Projected gradients ``[cohort]`` (float32), client i along its direction ``indices[i]``; central or exact.

    Args:
        thetas: ``[cohort, d]``, or ``[1, d]`` for one shared model.
        directions: one stream per client.
        radius: > 0.
        losses: points ``[cohort, 2, d]`` to ``[cohort, 2]``.
        indices: direction number per client.
    """
    models = thetas.expand(len(directions), -1)
    if scheme == "jvp":
        return _derivative(models, directions, losses, indices)
    pairs = [d.pair(theta.contiguous(), radius, i) for d, theta, i in zip(directions, models, indices, strict=True)]
    values = losses(torch.stack(pairs)).double()
    return ((values[:, 0] - values[:, 1]) / (2 * radius)).float()


def _derivative(
    models: torch.Tensor, directions: Sequence[Directions], losses: Losses, indices: Sequence[int]
) -> torch.Tensor:
    """Directional derivatives ``[cohort]`` (float32) by forward-mode differentiation, models ``[cohort or 1, d]``."""
    pairs = zip(directions, indices, strict=True)
    tangents = torch.stack([d.block(0, d.dimension, i, models.device, models.dtype) for d, i in pairs])
    made = forward_gradient(losses, models, tangents[:, None])
    return made.slopes[:, 0].float()


def mean_record(step: int, key: int, scalars: torch.Tensor, step_size: float, first_index: int = 0) -> Record:
    """ZO-FedSGD, MeZO and DeComFL's server: average ``[cohort, count]`` over clients, in float64, sent as float32.

    The 1/count of the n-direction estimate is part of the record's step size, so that server, clients and replay
    cannot disagree about it.
    """
    means = scalars.double().mean(0).float()
    return Record(step, key, tuple(means.tolist()), step_size / scalars.shape[1], first_index)


def mezo_step(
    theta: torch.Tensor,
    kind: DirectionKind,
    step: int,
    seed: int,
    radius: float,
    step_size: float,
    losses: Losses,
    count: int = 1,
) -> tuple[torch.Tensor, Record]:
    """One MeZO step (n-SPSA with ``count`` directions) in place; with a cohort, ZO-FedSGD."""
    directions = Directions(kind, theta.numel(), direction_key(seed, step))
    scalars = common_scalars(theta, directions, radius, losses, count)
    record = mean_record(step, directions.key, scalars, step_size)
    return apply_(theta, kind, [record]), record


def byte_messages(
    theta: torch.Tensor,
    kind: DirectionKind,
    step: int,
    seed: int,
    workers: Sequence[int],
    radius: float,
    losses: Losses,
    count: int = 1,
    stochastic: bool = False,
) -> torch.Tensor:
    """Just-One-Byte: codes ``[workers, count]`` uint8, each scalar along a direction of its own.

    Args:
        theta: ``[d]``, the model all machines hold.
        workers: identifiers, unique for the whole run; the key of a direction is (step, worker), its number k.
        losses: points ``[workers, 2, d]`` to ``[workers, 2]``.
        count: G, scalars per worker.
        stochastic: unbiased rounding instead of the nearest code.
    """
    streams = [Directions(kind, theta.numel(), direction_key(seed, step, worker)) for worker in workers]
    columns = [own_scalars(theta[None], streams, radius, losses, [k] * len(workers)) for k in range(count)]
    scalars = torch.stack(columns, dim=1)
    if not stochastic:
        return one_byte.encode(scalars)
    keys = [one_byte.rounding_key(seed, worker, step) for worker in workers]
    return torch.stack([one_byte.encode(row, key) for row, key in zip(scalars, keys, strict=True)])


def byte_records(
    messages: Mapping[int, torch.Tensor],
    step: int,
    seed: int,
    step_size: float,
    normaliser: Literal["mean", "root"] = "mean",
) -> list[Record]:
    """What every machine applies: the decoded scalars of all workers, by ascending worker, whatever the arrival order.

    Args:
        messages: codes ``[any number]`` by worker; a machine that sent nothing is absent.
        normaliser: step_size is divided by the number S of scalars received (``mean``), or by its root, as the
            reference's main program does.
    """
    total = sum(len(codes) for codes in messages.values())
    if total == 0:
        return []
    scaled = step_size / (total if normaliser == "mean" else math.sqrt(total))
    return [
        Record(step, direction_key(seed, step, worker), tuple(one_byte.decode(messages[worker]).tolist()), scaled)
        for worker in sorted(messages)
    ]


def decomfl_local(
    theta: torch.Tensor,
    kind: DirectionKind,
    round_number: int,
    seed: int,
    clients: int,
    radius: float,
    step_size: float,
    losses_at: Callable[[int], Losses],
    local_steps: int = 1,
    perturbations: int = 1,
    scheme: Scheme = "central",
) -> torch.Tensor:
    """DeComFL clients: scalars ``[clients, local_steps, perturbations]``; the local models are then discarded.

    Direction p of local step k is number k P + p of the round's common stream. From the second local step on
    the clients' models differ, so each evaluates its own points.

    Args:
        theta: ``[d]``, the round's model; not changed.
        losses_at: the objective of local step k (a batch per step).
    """
    stream = Directions(kind, theta.numel(), direction_key(seed, round_number))
    first = common_scalars(theta, stream, radius, losses_at(0), perturbations, 0, scheme)
    rows = [first]
    if local_steps == 1:
        return torch.stack(rows, dim=1)
    models = theta.repeat(clients, 1)
    for k in range(local_steps):
        if k > 0:
            rows.append(_own_models(models, stream, radius, losses_at(k), perturbations, k * perturbations, scheme))
        for model, scalars in zip(models, rows[-1].tolist(), strict=True):
            record = Record(round_number, stream.key, tuple(scalars), step_size / perturbations, k * perturbations)
            apply_(model, kind, [record])
    return torch.stack(rows, dim=1)


def _own_models(
    models: torch.Tensor,
    stream: Directions,
    radius: float,
    losses: Losses,
    count: int,
    first_index: int,
    scheme: Scheme,
) -> torch.Tensor:
    """Scalars ``[clients, count]`` of clients whose models ``[clients, d]`` differ, along common directions."""
    if scheme == "jvp":
        streams, last = [stream] * len(models), first_index + count
        exact = [_derivative(models, streams, losses, [i] * len(models)) for i in range(first_index, last)]
        return torch.stack(exact, dim=1)
    base = losses(models[:, None]).double() if scheme == "forward" else None
    columns = []
    for index in range(first_index, first_index + count):
        pairs = torch.stack([stream.pair(model, radius, index) for model in models])
        values = losses(pairs if base is None else pairs[:, :1]).double()
        slope = (values[:, 0] - values[:, 1]) / (2 * radius) if base is None else (values - base)[:, 0] / radius
        columns.append(slope)
    return torch.stack(columns, dim=1).float()


def decomfl_records(scalars: torch.Tensor, round_number: int, seed: int, step_size: float) -> list[Record]:
    """DeComFL's server: one record per local step from ``[clients, local_steps, perturbations]``.

    The same records move the server's model and let an absent client catch up; 1/P is in their step size.
    """
    key, perturbations = direction_key(seed, round_number), scalars.shape[2]
    steps = scalars.unbind(1)
    return [mean_record(round_number, key, s, step_size, k * perturbations) for k, s in enumerate(steps)]


def feedsign_vote(scalars: torch.Tensor) -> float:
    """FeedSign's server: +1.0, -1.0, or 0.0 for a tie, from the signs of ``[cohort]`` scalars.

    Ties are not specified in what could be read of the paper; here a tie skips the step. A zero scalar abstains.
    """
    return float(scalars.sign().sum().sign())


def feedsign_record(step: int, seed: int, vote: float, step_size: float) -> list[Record]:
    """The step everybody takes: length step_size along the common direction; nothing on a tie."""
    return [Record(step, direction_key(seed, step), (vote,), step_size)] if vote else []
