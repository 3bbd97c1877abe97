"""The CNN of FederatedAveraging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedopt.models._shapes import image_shape
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class FedavgCnn(Model):
    """The FedAvg paper's CNN: two 5x5 convolutions (32, 64) with max-pooling, a dense layer of 512, the output.

    1,663,370 parameters on 1x28x28 with 10 classes, the paper's number. Other image sizes are adapted to: the first
    convolution takes the task's channels and the dense layer its size.

    References: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks, arXiv:1602.05629 (MNIST CNN).
    Differences: PyTorch's default initialisation.
    """

    dense: int = Field(512, ge=1, description="units of the fully connected layer")

    def build(self, task: Task) -> nn.Module:
        """The chain for the task's images."""
        from fedopt.models._two_convolutions import two_convolutions

        return two_convolutions(image_shape(task, self.kind(), smallest=4), self.dense, task.num_outputs)
