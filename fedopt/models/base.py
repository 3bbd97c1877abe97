"""Models: settings that build a ``torch.nn.Module`` for a task."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from fedopt.components import Settings
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class Model(Settings):
    """Base of model kinds.

    The built module maps ``[batch, *input_shape]`` to logits ``[batch, num_outputs]`` (classification), values
    ``[batch, num_outputs]`` (regression) or logits ``[batch, sequence, num_outputs]`` (next_token). Where the model is
    a chain, return ``nn.Sequential`` of standard layers so that the engine can batch it by hand. Parameters are
    initialised by PyTorch's defaults under the caller's seeded global generator (the engine forks it).
    """

    @abstractmethod
    def build(self, task: Task) -> nn.Module:
        """Build the module.

        Raises:
            ValueError: the model does not fit the task's shapes or kind; says which model would.
        """

    def problems(self) -> list[tuple[str, str]]:
        """What is wrong as far as it shows without data and without building, as (field, message)."""
        return []
