"""The CNN of LEAF for FEMNIST."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedopt.models._shapes import image_shape
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class LeafCnnFemnist(Model):
    """LEAF's FEMNIST network: two 5x5 convolutions (32, 64) with max-pooling, a dense layer of 2048, the output.

    6,603,710 parameters on 1x28x28 with 62 classes, as in LEAF. Other image sizes are adapted to: the first
    convolution takes the task's channels and the dense layer its size, so the number of parameters changes.

    References: Caldas et al. 2018, LEAF, arXiv:1812.01097; TalwalkarLab/leaf, models/femnist/cnn.py.
    Differences: PyTorch's default initialisation instead of Glorot's.
    """

    dense: int = Field(2048, ge=1, description="units of the fully connected layer")

    def build(self, task: Task) -> nn.Module:
        """The chain for the task's images."""
        from fedopt.models._two_convolutions import two_convolutions

        return two_convolutions(image_shape(task, self.kind(), smallest=4), self.dense, task.num_outputs)
