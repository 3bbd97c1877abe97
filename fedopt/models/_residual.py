"""Residual blocks with GroupNorm.

The classes are made when first asked for, because files of this folder load without torch.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@cache
def _classes() -> dict[str, type[nn.Module]]:
    import torch
    from torch import nn

    class ResidualBlock(nn.Module):
        """relu(x' + norm(conv(relu(norm(conv(x)))))), x' = x, or a normalised 1x1 convolution where the shape changes.

        Args:
            channels: input channels.
            width: output channels.
            stride: of the first convolution.
            groups: of GroupNorm.
        """

        def __init__(self, channels: int, width: int, stride: int, groups: int):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.GroupNorm(groups, width),
                nn.ReLU(),
                nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
                nn.GroupNorm(groups, width),
            )
            self.shortcut: nn.Module = nn.Identity()
            if stride != 1 or channels != width:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False), nn.GroupNorm(groups, width)
                )

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """``[batch, channels, h, w] -> [batch, width, h / stride, w / stride]``."""
            return torch.relu(self.shortcut(inputs) + self.body(inputs))

    class SpatialMean(nn.Module):
        """Mean over height and width: ``[batch, channels, h, w] -> [batch, channels]``."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """The means."""
            return inputs.mean(dim=(-2, -1))

    made: list[type[nn.Module]] = [ResidualBlock, SpatialMean]
    for each in made:
        each.__qualname__ = each.__name__  # found by this name again when unpickled
    return {each.__name__: each for each in made}


def __getattr__(name: str) -> Any:
    if name in ("ResidualBlock", "SpatialMean"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
