"""Replies of scalar methods in the bytes that their cards count: one per sign or coded scalar, eight per FedKSeed step.

Both sides know the code from the server's message, so nothing about it travels. What is decoded has the very bits that
were encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fedopt.protocol import NOT_FINITE
from fedopt.zeroth_order import one_byte

Parts = dict[str, torch.Tensor]
SCALARS, SUMS, PAIRS = "scalars", "accumulated", "pairs"


class NotFinite(ValueError):
    """A scalar is NaN or infinite, which no code of one byte can say."""


def shrink(parts: Parts, config: Mapping[str, Any]) -> Parts:
    """Parts as they are sent.

    Args:
        parts: of one reply.
        config: of the server's message.
    Raises:
        NotFinite: a coded scalar is not finite.
    """
    code = config.get("code", "float32")
    if code != "float32":
        return {**parts, SCALARS: _coded(parts[SCALARS], str(code))}
    if _sends_pairs(config) and set(parts) == {SUMS}:
        return {PAIRS: _pairs(parts[SUMS], int(config["local_steps"]))}
    return parts


def grow(parts: Parts, config: Mapping[str, Any]) -> Parts:
    """Parts as they were before ``shrink``.

    Raises:
        ValueError: a byte that is no code, or an index that is no candidate.
    """
    code = config.get("code", "float32")
    if code != "float32":
        sent = parts[SCALARS]
        return {**parts, SCALARS: sent.float() if code == "sign" else one_byte.decode(sent)}
    if set(parts) == {PAIRS}:
        return {SUMS: _sums(parts[PAIRS], int(config["candidates"]))}
    return parts


def _coded(scalars: torch.Tensor, code: str) -> torch.Tensor:
    if not bool(torch.isfinite(scalars).all()):
        raise NotFinite(f"a scalar of the reply is {NOT_FINITE}")
    return scalars.sign().to(torch.int8) if code == "sign" else one_byte.encode(scalars)


def _sends_pairs(config: Mapping[str, Any]) -> bool:
    """Whether FedKSeed's sums are sent as (index, sum): where that is less than all K of them."""
    return "candidates" in config and 8 * int(config["local_steps"]) < 4 * int(config["candidates"])


def _pairs(sums: torch.Tensor, steps: int) -> torch.Tensor:
    """Sums ``[K]`` -> ``[steps, 2]`` int32: indices, and the bits of the sums; unused rows are (0, 0.0)."""
    index = sums.nonzero().flatten()
    made = torch.zeros(steps, 2, dtype=torch.int32)
    made[: len(index), 0] = index.int().cpu()
    made[: len(index), 1] = sums[index].float().cpu().view(torch.int32)
    return made


def _sums(pairs: torch.Tensor, candidates: int) -> torch.Tensor:
    index, sums = pairs[:, 0].long(), pairs[:, 1].contiguous().view(torch.float32)
    if not bool(((index >= 0) & (index < candidates)).all()) or not bool(torch.isfinite(sums).all()):
        raise ValueError("a pair names no candidate direction, or its sum is not finite")
    return torch.zeros(candidates).scatter_add(0, index, sums)
