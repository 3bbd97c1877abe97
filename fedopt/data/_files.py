"""Readers of the IDX format (MNIST and kin)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_NAMES = {
    "train_images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train_labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test_images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test_labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}


def read_idx(path: Path) -> np.ndarray:
    """Array in an IDX file, gzipped or not, of any of the format's element types.

    Raises:
        ValueError: not an IDX file, or its length does not fit its header.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise ValueError(f"{path} is not an IDX file: it starts with {raw[:4]!r}")
    dtype, axes = np.dtype(_TYPES[raw[2]]), raw[3]
    shape = tuple(int(extent) for extent in np.frombuffer(raw, ">u4", axes, 4)) if len(raw) >= 4 + 4 * axes else (-1,)
    body = raw[4 + 4 * axes :]
    if -1 in shape or len(body) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path} is cut off or damaged: shape {shape} of {dtype} does not fit {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def idx_file(folder: Path, role: str) -> Path | None:
    """The file of a role (``train_images`` ...) in a folder by its usual names, gzipped or not."""
    for name in IDX_NAMES[role]:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def has_idx_files(folder: Path) -> bool:
    """Whether a folder holds all four files."""
    return all(idx_file(folder, role) is not None for role in IDX_NAMES)


def as_images(values: np.ndarray) -> np.ndarray:
    """Images ``[n, height, width]`` (or with channels first) as float32 ``[n, channels, height, width]``; bytes scale
    to 0..1."""
    images = values[:, None] if values.ndim == 3 else values
    scale = np.float32(255.0 if values.dtype == np.uint8 else 1.0)
    return np.divide(images, scale, dtype=np.float32)  # one pass: the float copy is the slow part
