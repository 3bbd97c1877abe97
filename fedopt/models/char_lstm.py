"""Character LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fedopt.models._shapes import sequence_length
from fedopt.models.base import Model
from fedopt.types import Task

if TYPE_CHECKING:
    from torch import nn


class CharLstm(Model):
    """LEAF's Shakespeare network: an embedding of 8, two LSTM layers of 256 and the output, at every character.

    ``[batch, sequence] int64 -> [batch, sequence, num_outputs]``; 819,920 parameters with 80 characters. The LSTM is
    written out as a loop over time with the parameters of ``nn.LSTM``, so clients can be vectorised.

    References: Caldas et al. 2018, LEAF, arXiv:1812.01097; TalwalkarLab/leaf, models/shakespeare/stacked_lstm.py.
    Differences: 1. LEAF predicts only the character after the sequence; here every position predicts its next one.
    2. PyTorch's default initialisation; LEAF's constant 1 in the forget gate is the initial value of its bias, and
    trained. 3. PyTorch keeps two bias vectors per layer, so a layer has ``4 hidden`` parameters more.
    """

    embedding: int = Field(8, ge=1, description="numbers per character")
    hidden: int = Field(256, ge=1, description="units of each LSTM layer")
    layers: int = Field(2, ge=1, description="stacked LSTM layers")
    forget_bias: float = Field(1.0, allow_inf_nan=False, description="added to the forget gates' initial bias")

    def build(self, task: Task) -> nn.Module:
        """Embedding, LSTM, Linear."""
        import torch
        from torch import nn

        from fedopt.models._lstm import LSTM

        sequence_length(task, self.kind())
        lstm = LSTM(self.embedding, self.hidden, self.layers)
        with torch.no_grad():
            for layer in range(self.layers):
                getattr(lstm, f"bias_ih_l{layer}")[self.hidden : 2 * self.hidden] += self.forget_bias
        return nn.Sequential(
            nn.Embedding(task.num_outputs, self.embedding), lstm, nn.Linear(self.hidden, task.num_outputs)
        )
