"""Canaries: clients or examples whose presence is decided by secret coins and looked for in what is released.

Canaries take the place of existing clients or examples, so that sampling, weights and denominators stay those of the
scenario. A present canary pushes as hard as clipping lets it; an absent one contributes nothing (zero-out), which under
fixed denominators is the same as not being there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedopt.data.base import FederatedData
from fedopt.engine.base import BatchPlan, Cohort, CohortReply, DenseUpdates
from fedopt.rng import generator, torch_generator

PUSH = 1e4  # norm of a client canary's update over the clipping norm: clipping must act


@dataclass(frozen=True)
class ClientCanaries:
    """Clients that send a direction of their own instead of an update.

    Args:
        clients: which.
        present: whether each contributes; an absent one sends zeros.
        seed: of the directions; unknown to everything but the attack.
        push: norm of a present canary's update before clipping.
        others_train: whether the rest trains as usual; else it contributes nothing, which is allowed too and faster.
    """

    clients: tuple[int, ...]
    present: tuple[bool, ...]
    seed: int
    push: float
    others_train: bool = True

    def direction(self, position: int, dimension: int) -> torch.Tensor:
        """Unit vector ``[d]`` float64 of the canary at ``position``, uniform on the sphere."""
        made = torch_generator("cpu", self.seed, "audit_canary", position)
        vector = torch.randn(dimension, generator=made, dtype=torch.float64)
        return vector / vector.norm()


class CanaryWork:
    """Client work in which some clients are canaries.

    Args:
        inner: the scenario's client work.
        canaries: who.
    """

    def __init__(self, inner: Any, canaries: ClientCanaries):
        self._inner, self._canaries = inner, canaries
        self._position = {client: i for i, client in enumerate(canaries.clients)}
        self._shapes: dict[str, dict[str, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def work(self, cohort: Cohort, engine: Any) -> CohortReply:
        """As the inner work, with the canaries' rows replaced."""
        idle = not self._canaries.others_train or all(c in self._position for c in cohort.clients)
        if idle and cohort.phase in self._shapes and cohort.states is None:
            sizes = self._shapes[cohort.phase]
            rows = {name: torch.zeros(len(cohort), size, device=engine.device) for name, size in sizes.items()}
            reply = CohortReply({})
        else:
            reply = self._inner.work(cohort, engine)
            rows = {name: batch.rows().clone() for name, batch in reply.parts.items()}
            self._shapes[cohort.phase] = {name: value.shape[1] for name, value in rows.items()}
        for i, client in enumerate(cohort.clients):
            position = self._position.get(client)
            if position is not None:
                self._place(rows, i, position)
            elif not self._canaries.others_train:
                for value in rows.values():
                    value[i] = 0.0
        return replace(reply, parts={name: DenseUpdates(value) for name, value in rows.items()})

    def _place(self, rows: dict[str, torch.Tensor], row: int, position: int) -> None:
        """The canary's direction in the first part, nothing in the others."""
        for index, value in enumerate(rows.values()):
            value[row] = 0.0
            if index == 0 and self._canaries.present[position]:
                direction = self._canaries.direction(position, value.shape[1])
                value[row] = (direction * self._canaries.push).to(value)


@dataclass(frozen=True)
class ExampleCanaries:
    """Training examples with inputs of their own.

    Args:
        examples: indices into the training examples.
        clients: holder of each.
        present: whether each contributes.
        only: whether every other example contributes nothing, too.
    """

    examples: tuple[int, ...]
    clients: tuple[int, ...]
    present: tuple[bool, ...]
    only: bool = False

    def absent(self, total: int) -> np.ndarray:
        """Whether each training example contributes nothing ``[n]`` bool."""
        mask = np.full(total, self.only)
        for example, present in zip(self.examples, self.present, strict=True):
            mask[example] = not present
        return mask


def choose_examples(data: FederatedData, count: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Examples held by exactly one client, spread over the clients, and their holders."""
    owners = np.repeat(np.arange(data.clients.num_clients), data.clients.sizes())
    examples, first, times = np.unique(data.clients.indices, return_index=True, return_counts=True)
    single = examples[times == 1]
    holders = owners[first[times == 1]]
    order = generator(seed, "audit_examples").permutation(len(single))[:count]
    return tuple(single[order].tolist()), tuple(holders[order].tolist())


def with_canary_inputs(data: FederatedData, examples: tuple[int, ...], push: float, seed: int) -> FederatedData:
    """The data with these examples replaced by random inputs (random tokens for text) under random labels.

    Args:
        data: the data.
        examples: which.
        push: norm of a canary's input.
        seed: of the inputs.
    """
    data = data.materialised()
    draw = generator(seed, "audit_inputs")
    inputs, targets, chosen = data.train.inputs.copy(), data.train.targets.copy(), list(examples)
    shape = (len(chosen), *inputs.shape[1:])
    if np.issubdtype(inputs.dtype, np.integer):
        inputs[chosen] = draw.integers(0, max(1, int(inputs.max()) + 1), shape)
    else:
        made = draw.standard_normal((len(chosen), int(np.prod(shape[1:]))))
        made *= push / np.linalg.norm(made, axis=1, keepdims=True)
        inputs[chosen] = made.reshape(shape)
    targets[chosen] = targets[draw.permutation(len(targets))[: len(chosen)]]
    return replace(data, train=replace(data.train, inputs=inputs, targets=targets))


class CanaryEngine:
    """The engine as client work sees it, with absent examples contributing nothing.

    Batches keep their denominators and lose absent examples (DP-SGD); losses of absent examples are constants
    (gradient differences).
    """

    def __init__(self, inner: Any, absent: np.ndarray):
        self._inner, self._absent = inner, absent
        self.plans: list[tuple[Cohort, BatchPlan]] = []  # before absent examples were taken out
        self.task = _silenced(inner.task, torch.from_numpy(absent).to(inner.device))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def plan_batches(self, cohort: Cohort, *args: Any, **options: Any) -> BatchPlan:
        """The scenario's batches without absent examples."""
        plan = self._inner.plan_batches(cohort, *args, **options)
        self.plans.append((cohort, plan))
        indices, counts = np.zeros_like(plan.indices), plan.counts.copy()
        for row, step in np.ndindex(*counts.shape):
            batch = plan.indices[row, step, : counts[row, step]]
            kept = batch[~self._absent[batch]]
            indices[row, step, : len(kept)] = kept
            counts[row, step] = len(kept)
        return BatchPlan(indices, counts, plan.steps, plan.denominators)


def _silenced(task: Any, absent: torch.Tensor) -> Any:
    """The task with a marker as target of absent examples, whose loss is zero with zero gradient."""
    targets = task.targets.clone()
    marker = float("nan") if targets.is_floating_point() else -1
    targets[absent] = marker

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        gone = target.isnan() if target.is_floating_point() else target < 0
        gone = gone.flatten(1).any(1) if gone.dim() > 1 else gone
        usable = target.nan_to_num() if target.is_floating_point() else target.clamp_min(0)
        found = task.loss(outputs, usable)
        return torch.where(gone, torch.zeros_like(found), found)

    return replace(task, targets=targets, loss=loss)
