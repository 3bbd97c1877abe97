"""What the SGD-like clients share: amount of work, learning-rate schedule, batches, FedNova's normaliser."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from fedopt.clients.base import ClientWork
from fedopt.engine.base import BatchPlan, Cohort, Engine
from fedopt.types import Message

if TYPE_CHECKING:
    import torch


class LocalTraining(ClientWork):
    """Abstract: settings of every client that trains by mini-batch steps."""

    lr: float = Field(0.05, gt=0, description="client learning rate, > 0")
    batch_size: int | Literal["full"] = Field(10, description="examples per local step, >= 1, or full for all")
    epochs: int | None = Field(None, ge=1, description="passes over the local data; 1 unless steps is given")
    steps: int | None = Field(None, ge=1, description="local steps, instead of epochs")
    weight_decay: float = Field(0.0, ge=0, description="L2 coefficient added to the gradient, >= 0")
    lr_decay: float = Field(1.0, gt=0, le=1, description="factor on lr per server version, in (0, 1]")
    schedule: Literal["constant", "cosine"] = Field("constant", description="schedule of lr over server versions")
    schedule_versions: int = Field(1000, ge=1, description="server versions until the cosine schedule reaches zero")
    order: Literal["shuffled", "sampled"] = Field(
        "shuffled", description="shuffled passes over the data, or a fresh sample for every step"
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.batch_size != "full" and self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1 or full, got {self.batch_size}")
        return self

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """``local_steps`` of the message if it has one, else ``steps``, else epochs times batches per epoch."""
        if "local_steps" in message.config:
            return int(message.config["local_steps"])
        if self.steps is not None:
            return self.steps
        return (self.epochs or 1) * batches_per_epoch(num_examples, self.batch_size)

    def batch_size_of(self, num_examples: int) -> int:
        """``min(B, n_i)``, or n_i for full batches."""
        return num_examples if self.batch_size == "full" else min(self.batch_size, num_examples)

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """Gradients."""
        objective = engine.data.objective
        if objective is None or objective.has_gradients:
            return ()
        return (
            f"{self.kind()} needs gradients, but these data give values only; use a zeroth-order client, such as "
            "finite_difference",
        )

    def plan(self, cohort: Cohort, engine: Engine) -> BatchPlan:
        """Batches of a cohort."""
        return engine.plan_batches(cohort, self.batch_size, self.order)

    def rates(self, cohort: Cohort, plan: BatchPlan) -> torch.Tensor:
        """Learning rate of every row and step ``[rows, max_steps]``; a task keeps the rate of its start version."""
        import torch

        rate = [self.rate_at(int(message.config.get("version", 0))) for message in cohort.messages]
        return torch.tensor(rate, dtype=torch.float32)[:, None].expand(*plan.counts.shape).contiguous()

    def rate_at(self, version: int) -> float:
        """``lr * lr_decay^version``, times ``(1 + cos(pi * version / horizon)) / 2`` for the cosine schedule."""
        rate = self.lr * self.lr_decay**version
        if self.schedule == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(version, self.schedule_versions) / self.schedule_versions))
        return rate


def batches_per_epoch(num_examples: int, batch_size: int | Literal["full"]) -> int:
    """``ceil(n_i / B)``, and 1 for full batches; 0 without examples.

    >>> batches_per_epoch(25, 10), batches_per_epoch(25, "full"), batches_per_epoch(0, 10)
    (3, 1, 0)
    """
    if num_examples == 0:
        return 0
    return 1 if batch_size == "full" else -(-num_examples // batch_size)


def normalizer(steps: int, momentum: float = 0.0, nesterov: bool = False, shrink: float = 0.0) -> float:
    """|a|_1 of FedNova: how far ``steps`` steps move the model along a constant unit gradient, over lr.

    Runs the local rule on the scalar displacement e: ``g = 1 - shrink * e`` with shrink = lr * proximal,
    ``buffer = momentum * buffer + g``, ``e += buffer`` (or ``g + momentum * buffer`` with nesterov).

    References: Wang et al. 2020, Tackling the Objective Inconsistency Problem, arXiv:2007.07481, section 4.

    Differences from the paper: momentum and proximal term may be combined; weight decay does not enter.

    >>> round(normalizer(5, 0.9), 4), normalizer(10, 0.5), normalizer(1, 0.9)
    (13.1441, 18.001953125, 1.0)
    """
    moved = buffer = 0.0
    for _ in range(steps):
        gradient = 1.0 - shrink * moved
        buffer = momentum * buffer + gradient
        moved += gradient + momentum * buffer if nesterov else buffer
    return moved
