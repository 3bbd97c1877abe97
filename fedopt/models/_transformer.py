"""A small decoder-only transformer, written in operations that ``torch.func.vmap`` can batch.

The classes are made when first asked for, because files of this folder load without torch.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@cache
def _classes() -> dict[str, type[nn.Module]]:
    import torch
    from torch import nn

    class CausalSelfAttention(nn.Module):
        """Multi-head attention of every position to itself and earlier ones: ``softmax(Q K^T / sqrt(d_head)) V``.

        Args:
            width: features of a position, a multiple of heads.
            heads: attention heads.
            dropout: probability of dropping an attention weight.
        """

        def __init__(self, width: int, heads: int, dropout: float):
            super().__init__()
            self.heads = heads
            self.query_key_value = nn.Linear(width, 3 * width)
            self.output = nn.Linear(width, width)
            self.dropout = nn.Dropout(dropout)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """``[batch, sequence, width] -> [batch, sequence, width]``."""
            batch, sequence, width = inputs.shape
            projected = self.query_key_value(inputs).reshape(batch, sequence, 3, self.heads, width // self.heads)
            query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(
                0
            )  # each [batch, heads, sequence, width / heads]
            scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
            future = torch.ones(sequence, sequence, dtype=torch.bool, device=inputs.device).triu(1)
            weights = self.dropout(scores.masked_fill(future, float("-inf")).softmax(dim=-1))
            return self.output((weights @ value).transpose(1, 2).reshape(batch, sequence, width))

    class Block(nn.Module):
        """Pre-norm block: ``x += attention(norm(x)); x += feed_forward(norm(x))``, the latter 4 x as wide, GELU."""

        def __init__(self, width: int, heads: int, dropout: float):
            super().__init__()
            self.attention_norm = nn.LayerNorm(width)
            self.attention = CausalSelfAttention(width, heads, dropout)
            self.feed_forward_norm = nn.LayerNorm(width)
            self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            self.dropout = nn.Dropout(dropout)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """``[batch, sequence, width] -> [batch, sequence, width]``."""
            inputs = inputs + self.dropout(self.attention(self.attention_norm(inputs)))
            return inputs + self.dropout(self.feed_forward(self.feed_forward_norm(inputs)))

    class TokensAndPositions(nn.Module):
        """Embedding of the token plus a learned embedding of its position.

        Args:
            vocabulary: number of tokens.
            sequence: longest sequence.
            width: features of a position.
        """

        def __init__(self, vocabulary: int, sequence: int, width: int):
            super().__init__()
            self.token = nn.Embedding(vocabulary, width)
            self.position = nn.Parameter(torch.randn(sequence, width))
            with torch.no_grad():
                self.token.weight.mul_(0.02)
                self.position.mul_(0.02)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            """``[batch, sequence] int64 -> [batch, sequence, width]``."""
            return self.token(tokens) + self.position[: tokens.shape[1]]

    made: list[type[nn.Module]] = [CausalSelfAttention, Block, TokensAndPositions]
    for each in made:
        each.__qualname__ = each.__name__  # found by this name again when unpickled
    return {each.__name__: each for each in made}


def __getattr__(name: str) -> Any:
    if name in ("CausalSelfAttention", "Block", "TokensAndPositions"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
