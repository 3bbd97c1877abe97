"""The chain behind the two-convolution CNNs: 5x5 same-padded convolutions, each with ReLU and 2x2 max-pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def two_convolutions(image: tuple[int, int, int], dense: int, num_outputs: int) -> nn.Sequential:
    """conv5x5-32, relu, pool2, conv5x5-64, relu, pool2, dense, relu, output.

    Args:
        image: (channels, height, width), height and width >= 4.
        dense: units of the fully connected layer.
        num_outputs: outputs.
    """
    from torch import nn

    channels, height, width = image
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), dense),
        nn.ReLU(),
        nn.Linear(dense, num_outputs),
    )
