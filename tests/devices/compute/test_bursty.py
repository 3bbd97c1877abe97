"""Patterns of stragglers."""

from __future__ import annotations

import pytest

from fedopt.devices.compute.bursty import Bursty

ROUNDS = 120
DESIGNS = [(1, 2, 3), (1, 3, 2), (2, 3, 4), (2, 5, 3), (3, 4, 6)]


def pattern(fleet, **settings) -> list[frozenset[int]]:
    bound = Bursty(probability=0.4, **settings).bind(fleet(9))
    return [bound.stragglers(task) for task in range(ROUNDS)]


@pytest.mark.parametrize(("burst", "window", "most"), DESIGNS)
@pytest.mark.parametrize("name", ["bursty", "arbitrary"])
def test_every_window_obeys_the_definition(fleet, name, burst, window, most):
    rounds = pattern(fleet, pattern=name, burst=burst, window=window, max_stragglers=most)
    for start in range(ROUNDS - window + 1):
        inside = rounds[start : start + window]
        clients = frozenset().union(*inside)
        assert len(clients) <= most
        for client in clients:
            at = [k for k, slow in enumerate(inside) if client in slow]
            assert (at[-1] - at[0] < burst) if name == "bursty" else (len(at) <= burst)


@pytest.mark.parametrize("name", ["bursty", "arbitrary"])
def test_the_limits_are_reached(fleet, name):
    """A generator that marks nobody would pass the test above."""
    rounds = pattern(fleet, pattern=name, burst=2, window=4, max_stragglers=3)
    windows = [rounds[start : start + 4] for start in range(ROUNDS - 3)]
    assert max(len(frozenset().union(*inside)) for inside in windows) == 3
    assert max(sum(c in slow for slow in inside) for inside in windows for c in range(9)) == 2


def test_stragglers_take_longer(fleet):
    model = Bursty(probability=0.5, max_stragglers=2, factor=3.0)
    bound = model.bind(fleet(5))
    for task in range(30):
        for client in range(5):
            assert bound.seconds(client, task, 1, 1) == (3 if client in bound.stragglers(task) else 1)


def test_nobody_may_straggle(fleet):
    assert not any(pattern(fleet, max_stragglers=0))


def test_a_burst_as_long_as_the_window_is_refused():
    with pytest.raises(ValueError, match="burst must be < window = 3, got 3"):
        Bursty(burst=3, window=3)
