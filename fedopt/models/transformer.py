"""Small decoder-only transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from fedopt.models._shapes import sequence_length
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class Transformer(Model):
    """Decoder-only transformer for next-token prediction: causal attention, pre-norm, learned positions.

    ``[batch, sequence] int64 -> [batch, sequence, num_outputs]``; the output at a position depends on it and earlier
    ones only. With width d, L layers, V tokens and sequences of T: ``V d + T d + L (12 d^2 + 13 d) + 2 d + d V + V``
    parameters.

    References: Vaswani et al. 2017, arXiv:1706.03762; pre-norm and GELU as in GPT-2 (Radford et al. 2019), whose
    embeddings (standard deviation 0.02) it starts from; the other layers start from PyTorch's defaults and the output
    layer is not tied to the embedding.
    """

    width: int = Field(64, ge=1, description="features of a position, a multiple of heads")
    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads per block")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="probability of dropping an attention weight or a residual feature"
    )

    @model_validator(mode="after")
    def _divisible(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width = {self.width}, got {self.heads}")
        return self

    def build(self, task: Task) -> nn.Module:
        """Embeddings, blocks, LayerNorm, Linear."""
        from torch import nn

        from fedopt.models._transformer import Block, TokensAndPositions

        sequence = sequence_length(task, self.kind())
        return nn.Sequential(
            TokensAndPositions(task.num_outputs, sequence, self.width),
            *(Block(self.width, self.heads, self.dropout) for _ in range(self.layers)),
            nn.LayerNorm(self.width),
            nn.Linear(self.width, task.num_outputs),
        )
