"""Shared part of availability models: time is cut into windows, and within a window nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from fedopt import rng
from fedopt.devices._times import exact
from fedopt.devices.base import Fleet, Seconds


class Windows:
    """Equal windows ``[k w, (k + 1) w)`` of virtual time, exact.

    >>> windows = Windows(0.1)
    >>> windows.index(Fraction(3, 10)), windows.after(0.25)
    (3, Fraction(3, 10))
    """

    def __init__(self, window_s: float):
        self._window = exact(window_s)

    def index(self, time: Seconds) -> int:
        """Number k >= 0 of the window that holds ``time``."""
        return int(Fraction(time) // self._window)

    def after(self, time: Seconds) -> Fraction:
        """Start of the next window."""
        return (self.index(time) + 1) * self._window


class WindowedPresence:
    """Availability that is decided anew in every window, from the window's number alone.

    Args:
        window_s: length of a window in seconds.
        states: ``window number -> [num_clients] bool``; same number, same answer.
    """

    def __init__(self, window_s: float, states: Callable[[int], np.ndarray]):
        self._windows, self._states = Windows(window_s), states
        self._last: tuple[int, np.ndarray] | None = None  # only a cache

    def available(self, clients: np.ndarray, time: Seconds) -> np.ndarray:
        """Which of these clients are there in the window of ``time``."""
        window = self._windows.index(time)
        if self._last is None or self._last[0] != window:
            self._last = (window, self._states(window))
        return self._last[1][np.asarray(clients, dtype=np.int64)]

    def next_change(self, time: Seconds) -> Seconds:
        """Start of the next window."""
        return self._windows.after(time)


def independent_windows(
    fleet: Fleet, window_s: float, probabilities: Callable[[int], np.ndarray | float]
) -> WindowedPresence:
    """Every client is there in window k with its own probability, independently.

    Args:
        fleet: the fleet.
        window_s: length of a window in seconds.
        probabilities: ``k -> p_i(k)``, ``[num_clients]`` or one number.
    """

    def states(window: int) -> np.ndarray:
        return rng.generator(fleet.seed, "availability", window).random(fleet.num_clients) < probabilities(window)

    return WindowedPresence(window_s, states)
