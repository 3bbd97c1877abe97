"""Philox4x32-10 in integer tensor operations: the same bits on every device, thread count and chunking.

A 128-bit stream key fills Philox' 64-bit key and the upper half of its 128-bit counter; the lower half counts
blocks and directions. Philox is a bijection of the counter for each key, so two (key, direction, block) triples
never share a block of output by construction, short of the random coincidences of a random function.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MASK = 0xFFFF_FFFF
_MULTIPLIERS = (0xD251_1F53, 0xCD9E_8D57)
_WEYL = (0x9E37_79B9, 0xBB67_AE85)
_ROUNDS = 10
WORDS_PER_BLOCK = 4


def key_tensor(keys: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """128-bit keys as four 32-bit words each: ``[rows, 4]`` int64, least significant word first.

    Raises:
        ValueError: a key is negative or has more than 128 bits.
    """
    for key in keys:
        if not 0 <= key < 1 << 128:
            raise ValueError(f"a stream key must have 128 bits and no sign, got {key}; make it with fedopt.rng.key")
    words = [[(key >> shift) & _MASK for shift in (0, 32, 64, 96)] for key in keys]
    return torch.tensor(words, dtype=torch.int64, device=device).reshape(len(keys), 4)


def philox4x32(counter: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Philox4x32 with ten rounds.

    Args:
        counter: ``[..., 4]`` int64 holding 32-bit words.
        key: ``[..., 2]`` int64 holding 32-bit words, broadcast against ``counter``.
    Returns:
        ``[..., 4]`` int64 holding 32-bit words.

    References: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    even, odd = counter[..., 0::2].movedim(-1, 0), counter[..., 1::2].movedim(-1, 0)
    even, odd = _rounds(even, odd, key.movedim(-1, 0))
    return torch.stack((even[0], odd[0], even[1], odd[1]), dim=-1)


def words(keys: torch.Tensor, indices: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Random 32-bit words of blocks ``first .. last - 1`` of one direction per row.

    Args:
        keys: ``[rows, 4]`` from `key_tensor`.
        indices: ``[rows]`` int64, the direction's number in its stream, below 2**32.
        first, last: range of blocks, each of four words.
    Returns:
        ``[rows, 4 * (last - first)]`` int64, values in ``[0, 2**32)``.
    """
    if last > _MASK:
        raise ValueError(f"a direction has at most 2**32 - 1 blocks of 128 signs, asked for block {last}")
    blocks = torch.arange(first, last, dtype=torch.int64, device=keys.device).expand(len(keys), -1)
    upper = keys[:, 2:, None].expand(-1, -1, last - first)
    even = torch.stack((blocks, upper[:, 0]))
    odd = torch.stack((indices[:, None].expand_as(blocks), upper[:, 1]))
    even, odd = _rounds(even, odd, keys[:, :2].T[:, :, None])
    return torch.stack((even[0], odd[0], even[1], odd[1]), dim=-1).flatten(1)


def _rounds(even: torch.Tensor, odd: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten rounds on counter words (0, 2) and (1, 3), stacked on the first axis.

    Products wrap modulo 2**64 in int64, which is what is wanted: the arithmetic shift leaves sign bits above bit 31
    of the high word and the low word keeps its high part, and one mask at the end of the round removes both.
    """
    shape = (2, *[1] * (even.dim() - 1))
    multipliers = torch.tensor(_MULTIPLIERS, dtype=torch.int64, device=even.device).view(shape)
    weyl = torch.tensor(_WEYL, dtype=torch.int64, device=even.device).view(shape)
    for turn in range(_ROUNDS):
        product = even * multipliers
        swapped = product.flip(0)
        high = swapped >> 32
        high.bitwise_xor_(odd).bitwise_xor_(key + turn * weyl).bitwise_and_(_MASK)
        even, odd = high, swapped
    return even, odd & _MASK
