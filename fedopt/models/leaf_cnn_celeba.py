"""The CNN of LEAF for CelebA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedopt.models._shapes import image_shape
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn

BLOCKS, CHANNELS = 4, 32


class LeafCnnCeleba(Model):
    """LEAF's CelebA network: four blocks of 3x3 convolution, normalisation, max-pooling and ReLU, then the output.

    31,202 parameters on 3x84x84 with 2 classes; other image sizes are adapted to (sizes are halved rounding up). The
    default GroupNorm has as many parameters as BatchNorm, but no running statistics, so clients can be vectorised and
    one example's gradient does not depend on the others.

    References: Caldas et al. 2018, LEAF, arXiv:1812.01097; TalwalkarLab/leaf, models/celeba/cnn.py.
    Differences: 1. GroupNorm in place of BatchNorm unless ``normalisation: batch`` (LEAF's; run by the loop backend,
    not under privacy); LEAF normalises by the batch also in evaluation, PyTorch then uses running statistics. 2.
    PyTorch's default initialisation.
    """

    normalisation: Literal["group", "batch", "none"] = Field(
        "group", description="what follows each convolution; batch is LEAF's own and cannot be vectorised"
    )
    groups: int = Field(8, ge=1, le=CHANNELS, description="groups of GroupNorm, a divisor of 32")

    def build(self, task: Task) -> nn.Module:
        """The chain for the task's images.

        Raises:
            ValueError: not images, or groups does not divide 32.
        """
        from torch import nn

        channels, height, width = image_shape(task, self.kind(), smallest=2)
        if CHANNELS % self.groups:
            raise ValueError(f"model.groups must divide {CHANNELS}, got {self.groups}")
        layers: list[nn.Module] = []
        for _ in range(BLOCKS):
            layers.append(nn.Conv2d(channels, CHANNELS, kernel_size=3, padding=1))
            if self.normalisation == "group":
                layers.append(nn.GroupNorm(self.groups, CHANNELS))
            elif self.normalisation == "batch":
                layers.append(nn.BatchNorm2d(CHANNELS))
            layers += [nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]
            channels, height, width = CHANNELS, -(-height // 2), -(-width // 2)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS * height * width, task.num_outputs))
