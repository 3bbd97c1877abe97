"""The optimisation variable itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedopt.models._shapes import require_kind
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class Point(Model):
    """A point x of the task's shape, for black_box tasks, which only give values f(x).

    The only parameter is ``x``; as a module it starts at ``center``, plus ``spread`` times a standard normal or a
    uniform of [-1, 1]. In a scenario the problem says where it starts (``data.start``), and these options are refused.
    """

    initial: Literal["constant", "normal", "uniform"] = Field(
        "constant", description="how the start is spread; refused in scenarios"
    )
    center: float = Field(0.0, allow_inf_nan=False, description="start, or its middle, in every coordinate; likewise")
    spread: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="scale of the start for normal and uniform; likewise"
    )

    def build(self, task: Task) -> nn.Module:
        """The point."""
        import torch

        from fedopt.models._point import PointModule

        require_kind(task, ("black_box",), self.kind())
        start = torch.full(task.input_shape, self.center)
        if self.initial == "normal":
            start += self.spread * torch.randn(task.input_shape)
        elif self.initial == "uniform":
            start += self.spread * (2 * torch.rand(task.input_shape) - 1)
        return PointModule(start)
