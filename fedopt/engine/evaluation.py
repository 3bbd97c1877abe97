"""Loss and metric of a model on pooled or per-client examples, in batches, without gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from fedopt.engine.flat_module import FlatModule
from fedopt.engine.losses import ExampleLoss, correct
from fedopt.engine.threads import in_order
from fedopt.types import Task

BATCH = 1024


class Evaluated(NamedTuple):
    """Per-example results ``[n]``; ``scores`` are shares of right answers, None for regression."""

    losses: np.ndarray
    scores: np.ndarray | None


class ClientMetrics(NamedTuple):
    """Per-client results ``[clients]``; nan where a client has no examples."""

    losses: np.ndarray
    metric_name: str
    metrics: np.ndarray
    num_examples: np.ndarray


def evaluate_examples(
    model: FlatModule,
    task: Task,
    loss: ExampleLoss,
    inputs: torch.Tensor,
    targets: torch.Tensor,
) -> Evaluated:
    """Loss and score of every example."""
    parts = in_order(
        lambda begin: _evaluate_batch(model, task, loss, inputs[begin : begin + BATCH], targets[begin : begin + BATCH]),
        range(0, len(targets), BATCH),
    )
    losses = [part[0] for part in parts]
    scores = [part[1] for part in parts if part[1] is not None]
    return Evaluated(
        torch.cat(losses).double().cpu().numpy() if losses else np.zeros(0),
        torch.cat(scores).double().cpu().numpy() if scores else None,
    )


@torch.no_grad()
def _evaluate_batch(
    model: FlatModule, task: Task, loss: ExampleLoss, inputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    outputs = model.module(inputs)
    return loss(outputs, targets), correct(task, outputs, targets)


def summarise(task: Task, result: Evaluated, targets: torch.Tensor) -> dict[str, Any]:
    """Mean loss and the metric of the task: accuracy, or R2 = 1 - MSE / variance of the targets."""
    loss = float(result.losses.mean()) if len(result.losses) else float("nan")
    if task.kind == "regression":
        variance = float(targets.double().flatten(1).var(0, unbiased=False).mean()) if len(targets) else float("nan")
        r2 = 1.0 - loss / variance if variance > 0 else float("nan")
        return {"loss": loss, "metric_name": "r2", "metric_value": r2, "accuracy": None}
    accuracy = float(result.scores.mean()) if result.scores is not None else float("nan")
    return {"loss": loss, "metric_name": "accuracy", "metric_value": accuracy, "accuracy": accuracy}


def per_client(task: Task, result: Evaluated, sizes: np.ndarray) -> ClientMetrics:
    """Means over consecutive groups of examples, one group per client (metric of regression: mean squared error)."""
    owners = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.where(sizes > 0, sizes, np.nan)
    losses = np.bincount(owners, result.losses, len(sizes)) / counts
    if task.kind == "regression":
        return ClientMetrics(losses, "mse", losses.copy(), sizes)
    scores = result.scores if result.scores is not None else np.zeros(0)
    return ClientMetrics(losses, "accuracy", np.bincount(owners, scores, len(sizes)) / counts, sizes)
