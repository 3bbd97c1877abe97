"""One byte per scalar: sign and a 7-bit logarithmic magnitude, with zero.

    0x00 is 0; otherwise bit 7 is the sign and the low bits c = 1..127 the magnitude exp((c - 64) / 8)

Magnitudes run from 3.8e-4 to 2632; in between the relative error is at most exp(1/16) - 1 = 6.4 %.

Differences from the reference program (Zelikman et al. 2023, arXiv:2306.10015): its code has 255 magnitudes and a
sign, which is nine bits, and its message carries the unquantised value. Here what is sent is what is applied.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fedopt import rng

SMALLEST = math.exp(-63 / 8)
LARGEST = math.exp(63 / 8)
RELATIVE_ERROR = math.expm1(1 / 16)


def magnitudes() -> np.ndarray:
    """Magnitude of every code 0..127, float64 holding float32 values."""
    made = np.array([0.0, *(math.exp((code - 64) / 8) for code in range(1, 128))])
    return made.astype(np.float32).astype(np.float64)


_MAGNITUDES = magnitudes()


def encode(scalars: torch.Tensor, key: int | None = None) -> torch.Tensor:
    """Bytes (uint8, same shape) of scalars.

    Args:
        scalars: finite numbers of any shape; beyond the largest magnitude they are clamped.
        key: stream key for stochastic rounding, which makes the decoded value unbiased below the largest
            magnitude; None rounds to the nearest code in the logarithm, and below half the smallest magnitude to 0.
    Raises:
        ValueError: a scalar is not finite.
    """
    if not torch.isfinite(scalars).all():
        raise ValueError("a scalar is NaN or infinite and has no byte; skip the direction instead of sending it")
    flat = scalars.detach().double().flatten().cpu().numpy()
    size = np.abs(flat)
    code = _nearest(size) if key is None else _stochastic(size, key)
    made = np.where((flat < 0) & (code > 0), code | 0x80, code).astype(np.uint8)
    return torch.from_numpy(made).view(scalars.shape).to(scalars.device)


def decode(codes: torch.Tensor) -> torch.Tensor:
    """Float32 scalars of bytes, same shape.

    Raises:
        ValueError: the byte 0x80, a minus sign without magnitude, which `encode` never makes.
    """
    if bool((codes == 0x80).any()):
        raise ValueError("0x80 is not a code: a minus sign without a magnitude; the message is damaged")
    flat = codes.flatten().cpu().numpy()
    made = np.where(flat & 0x80, -1.0, 1.0) * _MAGNITUDES[flat & 0x7F]
    return torch.from_numpy(made.astype(np.float32)).view(codes.shape).to(codes.device)


def _nearest(size: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        exponent = np.rint(8 * np.log(size)) + 64
    code = np.clip(exponent, 1, 127)
    return np.where(size < SMALLEST / 2, 0, code).astype(np.int64)


def _stochastic(size: np.ndarray, key: int) -> np.ndarray:
    size = np.minimum(size, _MAGNITUDES[-1])
    below = np.clip(np.searchsorted(_MAGNITUDES, size, side="right") - 1, 0, 126)
    low, high = _MAGNITUDES[below], _MAGNITUDES[below + 1]
    draws = np.random.Generator(np.random.Philox(key=key)).random(size.shape)
    return below + (draws < (size - low) / (high - low))


def rounding_key(seed: int, worker: int, step: int) -> int:
    """Stream for stochastic rounding; private to a worker, nobody else needs it."""
    return rng.key(seed, "one-byte-rounding", worker, step)
