"""The CIFAR-10 CNN of the pfl-research benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedopt.models._shapes import image_shape
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class PflCnn(Model):
    """The CIFAR-10 CNN of the pfl-research benchmark: two unpadded 3x3 convolutions, dropout, a dense layer of 128.

    conv3x3-32, relu, conv3x3-64, relu, pool2, dropout 0.25, dense 128, relu, dropout 0.5, output: 1,626,442 parameters
    on 3x32x32 with 10 classes. Other image sizes are adapted to.

    References: Granqvist et al. 2024, pfl-research, arXiv:2404.06430 (CIFAR-10 benchmark).
    """

    dense: int = Field(128, ge=1, description="units of the fully connected layer")
    convolution_dropout: float = Field(0.25, ge=0, lt=1, description="probability of dropping a feature after pooling")
    dense_dropout: float = Field(0.5, ge=0, lt=1, description="probability of dropping a unit before the output")

    def build(self, task: Task) -> nn.Module:
        """The chain for the task's images."""
        from torch import nn

        channels, height, width = image_shape(task, self.kind(), smallest=6)
        return nn.Sequential(
            nn.Conv2d(channels, 32, kernel_size=3),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(self.convolution_dropout),
            nn.Flatten(),
            nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), self.dense),
            nn.ReLU(),
            nn.Dropout(self.dense_dropout),
            nn.Linear(self.dense, task.num_outputs),
        )
