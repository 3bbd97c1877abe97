"""Safetensors files written block by block: a checkpoint of a huge table never stands in memory as a whole.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian length of the header, the header as
JSON (name -> type, shape, offsets into the data), then the numbers. Files are read with the safetensors package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Rows:
    """A float32 table ``shape = (rows, width)`` that is produced a block at a time.

    Args:
        shape: (rows, width).
        block: ``(start, stop) -> rows start to stop, [stop - start, width]``.
    """

    shape: tuple[int, int]
    block: Callable[[int, int], np.ndarray]

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in order, at most ``BLOCK_ROWS`` at a time."""
        for start in range(0, self.shape[0], BLOCK_ROWS):
            yield self.block(start, min(self.shape[0], start + BLOCK_ROWS))


def rows_in(path: Path, name: str, shape: tuple[int, int]) -> Rows:
    """A stored table, read from the file only when its blocks are asked for."""
    from safetensors import safe_open

    def block(start: int, stop: int) -> np.ndarray:
        with safe_open(path, framework="np") as file:
            return np.asarray(file.get_slice(name)[start:stop])

    return Rows(shape, block)


def write(file: BinaryIO, tensors: Mapping[str, torch.Tensor | Rows], text: str) -> None:
    """Write tensors and a text (metadata ``fedopt``) in the safetensors format.

    Raises:
        ValueError: a tensor of a type the format does not have.
    """
    # Wide types first, so that every tensor starts at a multiple of its element size.
    order = sorted(tensors, key=lambda name: -_width(tensors[name]))
    header: dict[str, object] = {"__metadata__": {"fedopt": text}}
    offset = 0
    for name in order:
        value = tensors[name]
        dtype = torch.float32 if isinstance(value, Rows) else value.dtype
        if dtype not in TYPES:
            raise ValueError(f"a tensor of {dtype} cannot be stored")
        size = int(np.prod(value.shape, dtype=np.int64)) * _width(value)
        header[name] = {"dtype": TYPES[dtype], "shape": list(value.shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    file.write(len(head).to_bytes(8, "little") + head)
    for name in order:
        value = tensors[name]
        for part in value.blocks() if isinstance(value, Rows) else [_bytes(value)]:
            file.write(np.ascontiguousarray(part).data)


def _width(value: torch.Tensor | Rows) -> int:
    return 4 if isinstance(value, Rows) else value.element_size()


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
