"""Losses and metrics of the tasks, one value per example, with closed-form gradients at the outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from fedopt.types import Task

SHORT = 64  # a softmax over a shorter last axis is not vectorised on a CPU; with the classes first it is
ExampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def example_loss(task: Task) -> ExampleLoss:
    """Loss of every example: ``(outputs [n, ...], targets [n, ...]) -> [n]``.

    Cross entropy (classification), mean over the outputs of the squared error (regression), mean over the tokens of
    the cross entropy (next_token).

    Raises:
        ValueError: black_box tasks have no examples.
    """
    match task.kind:
        case "classification":
            return lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none")
        case "regression":
            return _squared_error
        case "next_token":
            return _token_cross_entropy
    raise ValueError(f"a {task.kind} task has no examples, so no example loss; its objective gives the values")


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets.reshape(outputs.shape)).square().flatten(1).mean(1)


def _token_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    per_token = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return per_token.view(targets.shape).mean(1)


def loss_and_gradient(task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of every example and its gradient at the outputs, without autograd.

    Args:
        task: classification or regression.
        outputs: ``[..., num_outputs]``.
        targets: ``[...]`` int64 classes, or ``[..., num_outputs]``.
    Returns:
        losses ``[...]`` and gradients ``[..., num_outputs]``.
    Raises:
        ValueError: another kind of task.
    """
    if task.kind == "classification":
        axis = 0 if outputs.device.type == "cpu" and outputs.shape[-1] < SHORT else -1
        log_probabilities = torch.log_softmax(outputs.movedim(-1, axis).contiguous(), axis)
        chosen = targets.unsqueeze(axis)
        losses = log_probabilities.gather(axis, chosen).squeeze(axis).neg_()
        gradient = log_probabilities.exp_()
        gradient.scatter_add_(axis, chosen, torch.full_like(chosen, -1, dtype=gradient.dtype))
        return losses, gradient.movedim(axis, -1)
    if task.kind == "regression":
        difference = outputs - targets.reshape(outputs.shape)
        return difference.square().mean(-1), difference.mul_(2.0 / outputs.shape[-1])
    raise ValueError(f"no closed form for {task.kind}; use the loop or vmap formulation")


def correct(task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    """Share of right answers of every example ``[n]`` (of its tokens for next_token), or None for regression."""
    if task.kind == "classification":
        return (outputs.argmax(-1) == targets).float()
    if task.kind == "next_token":
        return (outputs.argmax(-1) == targets).float().mean(1)
    return None
