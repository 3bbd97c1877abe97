"""Residual network with GroupNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from fedopt.models._shapes import image_shape
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class ResnetGroupnorm(Model):
    """ResNet for small images with GroupNorm: ResNet-8 by default, ResNet-18 with ``blocks: [2, 2, 2, 2], width: 64``.

    A 3x3 convolution, stages of residual blocks (each stage after the first doubles the channels and halves the image),
    the mean over the image, and the output. 11,173,962 parameters as ResNet-18 on 3x32x32 with 10 classes.

    References: He et al. 2016, Deep Residual Learning, arXiv:1512.03385; GroupNorm instead of BatchNorm for federated
    learning: Hsieh et al. 2020, arXiv:1910.00189, and Reddi et al. 2021, arXiv:2003.00295 (2 groups).
    Differences: no max-pooling after the first convolution, which is 3x3 (the usual form for 32x32 images).
    """

    blocks: tuple[int, ...] = Field(
        (1, 1, 1), min_length=1, strict=False, description="residual blocks per stage, >= 1"
    )
    width: int = Field(16, ge=1, description="channels of the first stage")
    groups: int = Field(2, ge=1, description="groups of GroupNorm, a divisor of width")

    @model_validator(mode="after")
    def _divisible(self) -> ResnetGroupnorm:
        if self.width % self.groups:
            raise ValueError(f"groups must divide width = {self.width}, got {self.groups}")
        if any(count < 1 for count in self.blocks):
            raise ValueError(f"every stage must have >= 1 blocks, got {self.blocks}")
        return self

    def build(self, task: Task) -> nn.Module:
        """The network for the task's images."""
        from torch import nn

        from fedopt.models._residual import ResidualBlock, SpatialMean

        channels, _, _ = image_shape(task, self.kind(), smallest=2 ** (len(self.blocks) - 1))
        layers: list[nn.Module] = [
            nn.Conv2d(channels, self.width, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(self.groups, self.width),
            nn.ReLU(),
        ]
        channels = self.width
        for stage, count in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(channels, width, stride, self.groups))
                channels = width
        return nn.Sequential(*layers, SpatialMean(), nn.Linear(channels, task.num_outputs))
