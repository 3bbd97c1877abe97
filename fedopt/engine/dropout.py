"""Dropout masks of named streams, for one client or many at once, the same bits on every device and in every order.

A mask is no sequence of draws but a function of (seed, client, task, layer, position), so that all clients of a block
get theirs in one go and a CUDA graph can compute them. Positions count the values that have passed a layer since the
task began.

References: Appleby 2011, MurmurHash3 (its 32-bit finaliser); Salmon et al. 2011, Parallel random numbers: as easy as
1, 2, 3 (counter-based streams).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fedopt.engine import kernels
from fedopt.engine.tasks import Chunk
from fedopt.engine.transfer import to_device
from fedopt.rng import key

WORD = 2**32


def mask_keys(seed: int, client: int, task: int, layers: int) -> np.ndarray:
    """What the masks of a task are made from: int32 ``[layers, 2]``, an odd factor and an offset per layer."""
    words = []
    for layer in range(layers):
        number = key(seed, "dropout", client, task, layer)
        words.append((number % WORD | 1, (number >> 32) % WORD))
    return np.array(words, np.uint32).reshape(layers, 2).view(np.int32)


def kept(
    keys: torch.Tensor, begins: torch.Tensor, shape: Sequence[int], probability: float, device: torch.device
) -> torch.Tensor:
    """Which values are kept: bool ``[rows, *shape]``, each with chance ``1 - probability``.

    Args:
        keys: of one layer, int32 ``[rows, 2]`` on the device.
        begins: position of each row's first value, int32 ``[rows]`` on the device; wraps around after 2^32 values.
        shape: of one row's values.
        probability: of dropping, in [0, 1).
    """
    size = int(np.prod(shape))
    mixed = torch.arange(size, dtype=torch.int32, device=device).expand(len(keys), size)
    mixed = (mixed + begins[:, None]).mul_(keys[:, :1]).add_(keys[:, 1:])
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
        # Shifts of signed words copy the sign; the mask makes them shifts of unsigned ones.
        mixed.bitwise_xor_((mixed >> shift).bitwise_and_((1 << (32 - shift)) - 1))
        if factor is not None:
            mixed.mul_(_signed(factor))
    return (mixed >= _threshold(probability)).view(len(keys), *shape)


def dropped(values: torch.Tensor, keys: torch.Tensor, begins: torch.Tensor, probability: float) -> torch.Tensor:
    """Values ``[rows, ...]`` of which each is zero with this chance, and otherwise rescaled; arguments as ``kept``."""
    scale = 1.0 / (1.0 - probability)
    if kernels.available(values.device):
        return kernels.dropped(values, keys, begins, _threshold(probability), scale)
    return values * kept(keys, begins, values.shape[1:], probability, values.device) * scale


def _threshold(probability: float) -> int:
    return round(probability * WORD) - WORD // 2


def _signed(word: int) -> int:
    """An unsigned 32-bit word as the signed number of the same bits."""
    return word - WORD if word >= WORD // 2 else word


class StreamDropout(nn.Module):
    """Dropout of one client at a time whose masks are those of ``kept``."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability
        self._keys, self._position = torch.zeros(1, 2, dtype=torch.int32), 0

    def begin(self, keys: torch.Tensor) -> None:
        """Start a task; ``keys`` are int32 ``[2]`` on the device."""
        self._keys, self._position = keys[None], 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Zero each value with the given probability and rescale the rest; identity outside training."""
        if not self.training or self.probability == 0.0:
            return inputs
        begins = to_device([_signed(self._position % WORD)], inputs.device, torch.int32)
        self._position += inputs.numel()
        mask = kept(self._keys, begins, inputs.shape, self.probability, inputs.device)[0]
        return inputs * mask * (1.0 / (1.0 - self.probability))


class Dropout:
    """Dropout of all clients of a block, as a layer of a chain (``fedopt.engine.layers``).

    Args:
        probability: of dropping.
        keys: of this layer, int32 ``[rows, 2]`` on the device.
        seen: examples that went through the layer before each step, int32 ``[rows, steps]`` on the device.
    """

    def __init__(self, probability: float, keys: torch.Tensor, seen: torch.Tensor):
        self._probability, self._keys, self._seen = probability, keys, seen

    def forward(self, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """Zero each value with the given probability and rescale the rest."""
        rows, _, *features = inputs.shape
        self._begins = self._seen[:rows, step] * int(np.prod(features))
        return dropped(inputs, self._keys[:rows], self._begins, self._probability)

    def backward(self, gradient: torch.Tensor, needs_input: bool) -> torch.Tensor | None:
        """The same mask, made again."""
        return dropped(gradient, self._keys[: len(gradient)], self._begins, self._probability) if needs_input else None


def chunk_keys(chunk: Chunk, layers: int, device: torch.device) -> torch.Tensor:
    """Keys of every layer and row, int32 ``[layers, rows, 2]`` on the device."""
    names = zip(chunk.seeds, chunk.clients, chunk.tasks, strict=True)
    return to_device(np.stack([mask_keys(*name, layers) for name in names], axis=1), device)


def seen_before(counts: np.ndarray) -> np.ndarray:
    """Examples before each step, int32 like ``counts [rows, steps]``."""
    return (np.cumsum(counts, axis=1) - counts).astype(np.int32)
