"""Everybody, always."""

from __future__ import annotations

import numpy as np

from fedopt.devices.base import AvailabilityModel, Fleet, Presence, Seconds


class Always(AvailabilityModel):
    """Every client can be asked at any time."""

    def bind(self, fleet: Fleet) -> Presence:
        """The same for everybody."""
        return _Always()


class _Always:
    def available(self, clients: np.ndarray, time: Seconds) -> np.ndarray:
        """All of them."""
        return np.ones(len(clients), dtype=bool)

    def next_change(self, time: Seconds) -> None:
        """Never."""
        return None
