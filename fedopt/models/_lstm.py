"""An LSTM written out as a loop over time, so that ``torch.func.vmap`` can batch it.

The class is made when first asked for, because files of this folder load without torch.
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
    from torch.nn import functional

    class LSTM(nn.Module):
        """Stacked LSTM with the mathematics and parameter names of ``nn.LSTM(batch_first=True)``, starting from zero.

        ``i, f, g, o = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh``; ``c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)``;
        ``h_t = sigmoid(o) tanh(c_t)``. Its ``state_dict`` fits ``nn.LSTM`` and the other way round.

        Args:
            input_size: features of one time step.
            hidden_size: units of every layer.
            num_layers: stacked layers.
        """

        def __init__(self, input_size: int, hidden_size: int, num_layers: int):
            super().__init__()
            self.hidden_size, self.num_layers = hidden_size, num_layers
            bound = 1 / math.sqrt(hidden_size)
            for layer in range(num_layers):
                width = input_size if layer == 0 else hidden_size
                shapes = {"weight_ih": (width,), "weight_hh": (hidden_size,), "bias_ih": (), "bias_hh": ()}
                for name, shape in shapes.items():
                    values = torch.empty(4 * hidden_size, *shape).uniform_(-bound, bound)
                    self.register_parameter(f"{name}_l{layer}", nn.Parameter(values))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            """``[batch, sequence, input_size] -> [batch, sequence, hidden_size]``, the top layer at every time step."""
            for layer in range(self.num_layers):
                inputs = self._layer(inputs, layer)
            return inputs

        def _layer(self, inputs: torch.Tensor, layer: int) -> torch.Tensor:
            weight_ih, weight_hh, bias_ih, bias_hh = (
                getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            from_inputs = functional.linear(inputs, weight_ih, bias_ih + bias_hh)  # all time steps in one product
            hidden = inputs.new_zeros(inputs.shape[0], self.hidden_size)
            cell, outputs = hidden, []
            for gates in from_inputs.unbind(dim=1):
                enter, forget, candidate, leave = (gates + functional.linear(hidden, weight_hh)).chunk(4, dim=-1)
                cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
                hidden = torch.sigmoid(leave) * torch.tanh(cell)
                outputs.append(hidden)
            return torch.stack(outputs, dim=1)

    made: list[type[nn.Module]] = [LSTM]
    for each in made:
        each.__qualname__ = each.__name__  # found by this name again when unpickled
    return {each.__name__: each for each in made}


def __getattr__(name: str) -> Any:
    if name in ("LSTM",):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
