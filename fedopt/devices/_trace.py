"""Recorded durations: reading and replaying a table of (client, task, seconds)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Assignment = Literal["by_id", "cycle"]


class Replay:
    """Columns of a trace by client and task.

    Args:
        path: CSV or Parquet file with columns ``client``, ``columns``, and optionally ``task`` (else file order).
        columns: columns to replay, in seconds.
        assignment: ``by_id``: client i replays the trace of client i; ``cycle``: the recorded clients in ascending
            order are dealt out again and again.
        num_clients: population size.
        where: the scenario key to name in errors.
    Raises:
        ValueError: no such file, a column is missing, a time is negative or not a number, or a client has no trace.
    """

    def __init__(self, path: str, columns: tuple[str, ...], assignment: Assignment, num_clients: int, where: str):
        table = _read(path, ("client", *columns), where)
        _check(table, columns, path, where)
        order = ["client", "task"] if "task" in table.columns else ["client"]
        table = table.sort_values(order, kind="stable")
        self._ids, self._starts, self._counts = np.unique(
            table["client"].to_numpy(), return_index=True, return_counts=True
        )
        self._values = table[list(columns)].to_numpy(dtype=float)  # [rows, columns], grouped by client
        self._by_id = assignment == "by_id"
        if self._by_id:
            missing = np.setdiff1d(np.arange(num_clients), self._ids)
            if len(missing):
                raise ValueError(
                    f"{where}: {path} has no rows for {len(missing)} of {num_clients} clients (first: {missing[0]}); "
                    "use assignment: cycle to reuse the recorded ones"
                )

    def _place(self, client: int) -> int:
        return int(np.searchsorted(self._ids, client)) if self._by_id else int(client) % len(self._ids)

    def row(self, client: int, task: int) -> np.ndarray:
        """Recorded seconds ``[columns]`` of the client's task-th task; after the last recorded one it starts again."""
        place = self._place(client)
        return self._values[self._starts[place] + task % self._counts[place]]

    def mean(self, client: int) -> np.ndarray:
        """Mean recorded seconds ``[columns]`` of one client."""
        place = self._place(client)
        return self._values[self._starts[place] : self._starts[place] + self._counts[place]].mean(axis=0)


def _read(path: str, needed: tuple[str, ...], where: str) -> pd.DataFrame:
    import pandas as pd

    if not path:
        raise ValueError(f"{where}.path is empty; give a CSV or Parquet file with the columns {', '.join(needed)}")
    if not Path(path).is_file():
        raise ValueError(f"{where}.path: no file {path!r}; give a CSV or Parquet file with {', '.join(needed)}")
    table = pd.read_parquet(path) if Path(path).suffix in (".parquet", ".pq") else pd.read_csv(path)
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise ValueError(
            f"{where}: {path} lacks the column {missing[0]!r}; it has {', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise ValueError(f"{where}: {path} has no rows")
    return table


def _check(table: pd.DataFrame, columns: tuple[str, ...], path: str, where: str) -> None:
    for column in columns:
        values = table[column].to_numpy(dtype=float)
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            raise ValueError(
                f"{where}: {path}, row {wrong[0] + 1}: {column} must be >= 0 and finite, got {values[wrong[0]]}; "
                "leave out tasks that did not finish"
            )
