"""Multinomial logistic regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedopt.models._shapes import num_inputs, require_kind
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class LogisticRegression(Model):
    """One linear layer from the flattened input to the class logits: convex with the cross-entropy loss.

    ``[batch, *input_shape] -> [batch, num_outputs]``; ``num_inputs * num_outputs`` weights plus the biases.
    """

    bias: bool = Field(True, description="whether there is a bias per class")

    def build(self, task: Task) -> nn.Module:
        """Flatten, Linear."""
        from torch import nn

        require_kind(task, ("classification",), self.kind())
        return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs(task), task.num_outputs, bias=self.bias))
