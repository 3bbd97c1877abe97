"""Shared part of network models: bytes over a bandwidth, plus a latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedopt.devices.base import Seconds

BITS_PER_MBIT = 1e6


@dataclass(frozen=True)
class Links:
    """Transfer times ``latency_s + 8 bytes / (10^6 rate)``; a transfer of 0 bytes takes no time.

    Args:
        mbit_s: ``(client, task) -> (download, upload)`` rates in Mbit/s.
        latency_s: seconds added to every transfer.
    """

    mbit_s: Callable[[int, int], tuple[float, float]]
    latency_s: float

    def seconds(self, client: int, task: int, downlink_bytes: int, uplink_bytes: int) -> tuple[Seconds, Seconds]:
        """(download, upload) time of the client's task-th task."""
        down, up = self.mbit_s(client, task)
        return self._transfer(downlink_bytes, down), self._transfer(uplink_bytes, up)

    def _transfer(self, num_bytes: int, mbit_s: float) -> float:
        return float(self.latency_s + 8 * num_bytes / (BITS_PER_MBIT * mbit_s)) if num_bytes > 0 else 0.0
