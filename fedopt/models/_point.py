"""A point to optimise, as a module.

The class is made when first asked for, because files of this folder load without torch.
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

    class PointModule(nn.Module):
        """Holds one parameter ``x``; has no inputs and no outputs.

        Args:
            start: initial value, any shape.
        """

        def __init__(self, start: torch.Tensor):
            super().__init__()
            self.x = nn.Parameter(start)

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            """Not used: the function of the task is evaluated at ``x`` itself.

            Raises:
                RuntimeError: always.
            """
            raise RuntimeError("a point has no outputs: a black_box task evaluates its function at the parameter x")

    made: list[type[nn.Module]] = [PointModule]
    for each in made:
        each.__qualname__ = each.__name__  # found by this name again when unpickled
    return {each.__name__: each for each in made}


def __getattr__(name: str) -> Any:
    if name in ("PointModule",):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
