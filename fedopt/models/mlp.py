"""Multi-layer perceptron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from fedopt.models._shapes import num_inputs, require_kind
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class Mlp(Model):
    """Fully connected layers with an activation in between, for classification or regression.

    ``[batch, *input_shape] -> [batch, num_outputs]``. With ``hidden: [200]`` on 28x28 images and 10 classes: 159,010
    parameters. ``hidden: []`` is one linear layer.

    References: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks, arXiv:1602.05629 (their "2NN" is
    ``hidden: [200, 200]``, 199,210 parameters).
    """

    hidden: tuple[int, ...] = Field((200,), strict=False, description="units of each hidden layer, >= 1")
    activation: Literal["relu", "tanh", "softplus"] = Field("relu", description="function between the layers")

    @field_validator("hidden")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(units < 1 for units in value):
            raise ValueError(f"every hidden layer must have >= 1 units, got {value}")
        return value

    def build(self, task: Task) -> nn.Module:
        """Flatten, then Linear and activation in turn, ending with Linear."""
        from torch import nn

        require_kind(task, ("classification", "regression"), self.kind())
        activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}[self.activation]
        layers: list[nn.Module] = [nn.Flatten()]
        width = num_inputs(task)
        for units in self.hidden:
            layers += [nn.Linear(width, units), activation()]
            width = units
        return nn.Sequential(*layers, nn.Linear(width, task.num_outputs))
