"""A two-state Markov chain that can be asked at any index: the state is found by looking back, not by stepping.

Index t has a uniform number u_t. From state 0 the chain goes to 1 if ``u_t < enter``; from state 1 it stays there if
``u_t < 1 - leave``. Below both bounds the new state is 1 and above both it is 0, whatever came before; in between it
is kept (or flipped, if ``enter + leave > 1``). So the last index with a number outside the middle decides, and looking
back costs about ``1 / (enter + leave)`` numbers. Index 0 is drawn from the stationary law.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def stationary(enter: float, leave: float) -> float:
    """Long-run share of state 1: ``enter / (enter + leave)``, 0 if it is never entered.

    >>> stationary(0.1, 0.3)
    0.25
    """
    return enter / (enter + leave) if enter > 0 else 0.0


def states_at(
    uniforms: Callable[[int], np.ndarray],
    index: int,
    enter: float,
    leave: float,
    known: tuple[int, np.ndarray] | None = None,
) -> np.ndarray:
    """States of many independent chains at one index.

    Args:
        uniforms: the numbers ``[chains]`` of one index, the same at every call.
        index: which index, >= 0.
        enter: probability of 0 -> 1 in one step, in [0, 1].
        leave: probability of 1 -> 0 in one step, in [0, 1].
        known: an earlier answer (its index, states), to stop at.
    Returns:
        ``[chains]`` bool, whether each is in state 1.
    """
    low, high = sorted((enter, 1 - leave))
    flips = enter > 1 - leave
    base = known if known is not None and known[0] <= index else None
    states, parity, open_chains = None, False, np.array([], dtype=bool)
    for at in range(index, -1, -1):
        if base is not None and at == base[0]:
            decided, values = None, base[1]
        elif at == 0:
            decided, values = None, uniforms(0) < stationary(enter, leave)
        else:
            numbers = uniforms(at)
            values = numbers < low
            decided = values | (numbers >= high)
        if states is None:
            states, open_chains = np.zeros(len(values), dtype=bool), np.ones(len(values), dtype=bool)
        settled = open_chains if decided is None else open_chains & decided
        states[settled] = values[settled] ^ parity
        if decided is None:
            break
        open_chains = open_chains & ~decided
        if not open_chains.any():
            break
        parity ^= flips
    if states is None:
        raise ValueError(f"index must be >= 0, got {index}")
    return states


class Chain:
    """One chain, remembering the last state asked for so that going forward is cheap. Answers depend on nothing else.

    Args:
        uniform: the number of one index, the same at every call.
        enter: probability of 0 -> 1.
        leave: probability of 1 -> 0.
    """

    def __init__(self, uniform: Callable[[int], float], enter: float, leave: float):
        self._uniform, self._enter, self._leave = uniform, enter, leave
        self._known: tuple[int, np.ndarray] | None = None

    def at(self, index: int) -> bool:
        """Whether the chain is in state 1 at this index."""
        states = states_at(lambda t: np.array([self._uniform(t)]), index, self._enter, self._leave, self._known)
        self._known = (index, states)
        return bool(states[0])
