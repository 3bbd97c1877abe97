"""Checks of a task's kind and shape, with errors that name a model that fits."""

from __future__ import annotations

import math

from fedopt.types import Task

FITTING = {
    "classification": "logistic_regression, mlp or a CNN",
    "regression": "linear_regression or mlp",
    "next_token": "char_lstm or transformer",
    "black_box": "point",
}


def require_kind(task: Task, kinds: tuple[str, ...], model: str) -> None:
    """Refuse a task of another kind.

    Raises:
        ValueError: names the kinds the model is for, and models for the task's kind.
    """
    if task.kind not in kinds:
        raise ValueError(f"model {model} is for {' or '.join(kinds)}, not {task.kind}; use {FITTING[task.kind]}")


def num_inputs(task: Task) -> int:
    """Numbers in one example."""
    return math.prod(task.input_shape)


def image_shape(task: Task, model: str, smallest: int) -> tuple[int, int, int]:
    """(channels, height, width) of an image task.

    Args:
        task: the task.
        model: name for the error.
        smallest: height and width the model needs at least, in pixels.
    Raises:
        ValueError: the inputs are not images of that size.
    """
    require_kind(task, ("classification", "regression"), model)
    if len(task.input_shape) != 3 or min(task.input_shape[1:]) < smallest:
        raise ValueError(
            f"model {model} needs images (channels, height, width) of at least {smallest}x{smallest}, "
            f"got {task.input_shape}; use mlp"
        )
    channels, height, width = task.input_shape
    return channels, height, width


def sequence_length(task: Task, model: str) -> int:
    """Tokens in one example.

    Raises:
        ValueError: not a next_token task over sequences.
    """
    require_kind(task, ("next_token",), model)
    if len(task.input_shape) != 1:
        raise ValueError(f"model {model} needs inputs of shape (sequence,), got {task.input_shape}")
    return task.input_shape[0]
