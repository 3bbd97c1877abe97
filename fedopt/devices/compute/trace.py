"""Recorded compute times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from fedopt.devices._trace import Replay
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet, Seconds


class Trace(ComputeModel):
    """Replays recorded compute times from a CSV or Parquet file (client, task, compute_s), such as a deployment writes.

    ``T_i(task) = time_scale * compute_s`` of the recorded client's task-th row in task order, starting again after the
    last; the recorded work is replayed whatever the scenario's local steps are. ``E[T_i]`` is the mean of the rows.

    Raises (when bound):
        ValueError: no such file, a column or a client is missing, a time is negative or not a number.
    """

    path: str = Field("", description="CSV or Parquet file with columns client, compute_s and optionally task")
    assignment: Literal["by_id", "cycle"] = Field(
        "cycle", description="client i replays recorded client i, or the recorded clients are dealt out in turn"
    )
    time_scale: float = Field(1.0, gt=0, allow_inf_nan=False, description="factor on all recorded times")

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """Read the file for this fleet."""
        where = "devices.compute"
        replay = Replay(self.path, ("compute_s",), self.assignment, fleet.num_clients, where)
        return _Recorded(replay, fleet.num_clients, self.time_scale)


class _Recorded(NamedTuple):
    replay: Replay
    num_clients: int
    time_scale: float

    def seconds(self, client: int, task: int, local_steps: int, batch_size: int) -> Seconds:
        """Recorded time of the task."""
        return self.time_scale * float(self.replay.row(client, task)[0])

    def expected(self, local_steps: Sequence[int], batch_size: int) -> Sequence[Seconds]:
        """Mean recorded time of every client."""
        return [self.time_scale * float(self.replay.mean(client)[0]) for client in range(self.num_clients)]
