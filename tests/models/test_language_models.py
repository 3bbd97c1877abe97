"""The LSTM against PyTorch's own, and causality."""

from __future__ import annotations

import pytest
import torch

from fedopt.models._lstm import LSTM
from fedopt.models._transformer import CausalSelfAttention
from fedopt.models.char_lstm import CharLstm
from fedopt.models.transformer import Transformer
from fedopt.types import Task

TEXT = Task("next_token", (9,), 20)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_lstm_equals_pytorchs(layers):
    torch.manual_seed(0)
    ours, theirs = LSTM(5, 7, layers), torch.nn.LSTM(5, 7, layers, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(4, 11, 5)
    found, expected = ours(inputs), theirs(inputs)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(getattr(ours, name).grad, parameter.grad, rtol=1e-4, atol=1e-5)


def test_lstm_starts_like_pytorchs():
    torch.manual_seed(0)
    module = LSTM(50, 100, 1)
    assert list(module.state_dict()) == list(torch.nn.LSTM(50, 100).state_dict())
    values = module.weight_hh_l0.detach()
    assert values.abs().max() <= 0.1
    assert abs(values.std().item() - 0.1 / 3**0.5) < 0.002


def test_forget_bias_raises_only_the_forget_gates():
    lstms = []
    for bias in (0.0, 1.5):
        torch.manual_seed(0)
        lstms.append(CharLstm(hidden=6, forget_bias=bias).build(TEXT)[1])
    for layer in (0, 1):
        gap = getattr(lstms[1], f"bias_ih_l{layer}") - getattr(lstms[0], f"bias_ih_l{layer}")
        torch.testing.assert_close(gap, torch.tensor([0.0] * 6 + [1.5] * 6 + [0.0] * 12), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [CharLstm(hidden=6), Transformer(width=16, heads=2)], ids=["lstm", "transformer"])
def test_outputs_depend_on_the_past_and_all_of_it(model):
    torch.manual_seed(0)
    module = model.build(TEXT)
    tokens = torch.randint(20, (1, 9))
    base = module(tokens)
    for changed in range(9):
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % 20
        gap = (module(other) - base).abs().amax(dim=-1)[0]
        assert torch.all(gap[:changed] == 0), "nothing before the change moves"
        assert torch.all(gap[changed:] > 0), "everything after it does"


def test_attention_equals_pytorchs():
    torch.manual_seed(0)
    ours, theirs = CausalSelfAttention(8, 2, 0.0), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.query_key_value.weight)
        theirs.in_proj_bias.copy_(ours.query_key_value.bias)
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    inputs = torch.randn(3, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, _ = theirs(inputs, inputs, inputs, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(ours(inputs), expected, rtol=1e-5, atol=1e-6)


def test_positions_are_told_apart():
    torch.manual_seed(0)
    module = Transformer(width=16, heads=2).build(TEXT)
    outputs = module(torch.full((1, 9), 3))
    assert (outputs[0, 1:] - outputs[0, :1]).abs().amax(dim=-1).min() > 0
    assert module(torch.full((1, 4), 3)).shape == (1, 4, 20), "shorter sequences are fine"


def test_transformer_learns_to_copy():
    """A step downhill really goes down: predicting the token itself."""
    torch.manual_seed(0)
    module = Transformer(width=16, heads=2, layers=1).build(TEXT)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    tokens = torch.randint(20, (16, 9))
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(module(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
