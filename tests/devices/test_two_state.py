"""The two-state chain that looks back."""

from __future__ import annotations

import numpy as np
import pytest

from fedopt import rng
from fedopt.devices._two_state import Chain, states_at, stationary

CHAINS = 3000
RATES = [(0.05, 0.5), (0.5, 0.05), (0.9, 0.8), (0.3, 0.7), (0.0, 0.2), (1.0, 0.3)]


def uniforms(index: int) -> np.ndarray:
    return rng.generator(3, "test-chain", index).random(CHAINS)


def stepped(last: int, enter: float, leave: float) -> np.ndarray:
    """The obvious way: from index 0 forward."""
    states = uniforms(0) < stationary(enter, leave)
    for index in range(1, last + 1):
        states = uniforms(index) < np.where(states, 1 - leave, enter)
    return states


@pytest.mark.parametrize(("enter", "leave"), RATES)
def test_looking_back_equals_stepping(enter, leave):
    for index in (0, 1, 2, 7, 40):
        np.testing.assert_array_equal(states_at(uniforms, index, enter, leave), stepped(index, enter, leave))


@pytest.mark.parametrize(("enter", "leave"), RATES)
def test_a_known_state_changes_only_the_cost(enter, leave):
    known = (9, states_at(uniforms, 9, enter, leave))
    for index in (9, 10, 30, 4):  # a later known state is ignored
        expected = states_at(uniforms, index, enter, leave)
        np.testing.assert_array_equal(states_at(uniforms, index, enter, leave, known), expected)


@pytest.mark.parametrize(("enter", "leave"), [rate for rate in RATES if rate[0] > 0])
@pytest.mark.parametrize("index", [0, 25])
def test_the_stationary_share_holds_at_every_index(enter, leave, index, check_mean):
    states, share = states_at(uniforms, index, enter, leave), stationary(enter, leave)
    check_mean(states, share)
    check_mean(~states, 1 - share)


def test_single_chain_in_any_order():
    chain = Chain(lambda index: float(uniforms(index)[5]), 0.2, 0.4)
    expected = [bool(stepped(index, 0.2, 0.4)[5]) for index in range(20)]
    assert [chain.at(index) for index in range(20)] == expected
    assert [chain.at(index) for index in reversed(range(20))] == expected[::-1]


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="index must be >= 0, got -1"):
        states_at(uniforms, -1, 0.1, 0.2)
