"""Triton kernels for a CUDA device, each one pass over memory where PyTorch takes several; imported there only.

They compute what ``fedopt.engine.convolution`` and ``fedopt.engine.dropout`` say, sum in one order, and need nothing of
the host, so that they can be captured. Triton comes with PyTorch's CUDA builds; without it PyTorch's own kernels run.

References: Tillet, Kung and Cox 2019, Triton (MAPL).
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

WIDEST = 1024  # numbers of a block


def available(device: torch.device) -> bool:
    """Whether the kernels run on this device."""
    return device.type == "cuda" and _installed()


@lru_cache
def _installed() -> bool:
    return find_spec("triton") is not None


def _kernel(name: str) -> Any:
    return getattr(import_module("fedopt.engine.triton_kernels"), name)


def unfold(images: torch.Tensor, places: tuple[int, int], options: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Columns ``[n, in * kh * kw, places]`` of images ``[n, in, h, w]``.

    Args:
        places: height and width of the outputs.
        options: kernel, stride, padding and dilation.
    """
    n, channels, height, width = images.shape
    kernel, *rest = options
    columns = images.new_empty(n, channels * kernel[0] * kernel[1], places[0] * places[1])
    _run("unfold", images, columns, n * channels, (height, width), places, kernel, rest)
    return columns


def fold(
    columns: torch.Tensor, size: tuple[int, int], places: tuple[int, int], options: tuple[tuple[int, int], ...]
) -> torch.Tensor:
    """The transpose of ``unfold``: float32 images ``[n, in, h, w]``, summed in float32."""
    kernel, *rest = options
    channels = columns.shape[1] // (kernel[0] * kernel[1])
    images = torch.empty(len(columns), channels, *size, device=columns.device)
    _run("fold", columns, images, len(columns) * channels, size, places, kernel, rest)
    return images


def _run(
    name: str,
    source: torch.Tensor,
    target: torch.Tensor,
    planes: int,
    size: tuple[int, int],
    places: tuple[int, int],
    kernel: tuple[int, int],
    rest: list[tuple[int, int]],
) -> None:
    count = places[0] * places[1] if name == "unfold" else size[0] * size[1]
    block = min(WIDEST, 1 << max(5, (count - 1).bit_length()))
    numbers = [number for pair in (size, places, *rest) for number in pair]
    grid = (planes, -(-count // block))
    _kernel(name)[grid](source.contiguous(), target, *numbers, *kernel, BLOCK=block)


def dropped(
    values: torch.Tensor, keys: torch.Tensor, begins: torch.Tensor, threshold: int, scale: float
) -> torch.Tensor:
    """Values ``[rows, ...]`` times ``scale`` where they are kept, else zero (see ``fedopt.engine.dropout.kept``)."""
    source = values.contiguous()
    out, size = torch.empty_like(source), source[0].numel()
    grid = (len(source), -(-size // WIDEST))
    _kernel("dropped")[grid](source, out, keys.contiguous(), begins.contiguous(), size, threshold, scale, BLOCK=WIDEST)
    return out
