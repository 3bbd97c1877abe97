"""Recorded transfer times."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from fedopt.devices._trace import Replay
from fedopt.devices.base import Fleet, NetworkModel, NetworkTimes, Seconds


class Trace(NetworkModel):
    """Replays recorded transfer times from a CSV or Parquet file (client, task, download_s, upload_s).

    The recorded seconds of the client's task-th row, starting again after the last, whatever the scenario's bytes are.

    Raises (when bound):
        ValueError: no such file, a column or a client is missing, a time is negative or not a number.
    """

    path: str = Field(
        "", description="CSV or Parquet file with columns client, download_s, upload_s and optionally task"
    )
    assignment: Literal["by_id", "cycle"] = Field(
        "cycle", description="client i replays recorded client i, or the recorded clients are dealt out in turn"
    )
    time_scale: float = Field(1.0, gt=0, allow_inf_nan=False, description="factor on all recorded times")

    def bind(self, fleet: Fleet) -> NetworkTimes:
        """Read the file for this fleet."""
        columns = ("download_s", "upload_s")
        return _Recorded(
            Replay(self.path, columns, self.assignment, fleet.num_clients, "devices.network"), self.time_scale
        )


class _Recorded(NamedTuple):
    replay: Replay
    time_scale: float

    def seconds(self, client: int, task: int, downlink_bytes: int, uplink_bytes: int) -> tuple[Seconds, Seconds]:
        """Recorded (download, upload) time of the task."""
        download, upload = self.replay.row(client, task)
        return self.time_scale * float(download), self.time_scale * float(upload)
