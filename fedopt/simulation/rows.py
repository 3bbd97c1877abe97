"""Rows of a running log: written at once, or held until a checkpoint knows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedopt.protocol import NOT_FINITE
from fedopt.runlog import RunLog

Row = dict[str, Any]


class Rows:
    """Rows on their way to the log.

    Args:
        log: where they go.
        withheld: columns that must not be written.
        hold: rows wait for ``publish``, which is called after a checkpoint that holds them: what anybody has seen then
            survives a restart.
        on_round: called with every round that has been written.
    """

    def __init__(self, log: RunLog, withheld: frozenset[str], hold: bool, on_round: Callable[[Row], None]):
        self._log, self._withheld, self._hold, self._on_round = log, withheld, hold, on_round
        self.waiting: list[tuple[str, Row]] = []  # (table, row)
        self.counts = {"admitted": 0, "lost": 0, "failures": 0, "not_finite": 0}

    @property
    def ended(self) -> int:
        """Client tasks that have come to an end, well or not."""
        return self.counts["admitted"] + self.counts["lost"]

    def outcome(self, row: Row) -> None:
        """A row of ``updates``."""
        self.counts["admitted"] += row["status"] == "admitted"
        self.counts["lost"] += row["status"] in ("lost", "failed")
        self._write("updates", row)

    def failure(self, message: str) -> None:
        """What is said of a reply that fails."""
        self.counts["failures"] += 1
        self.counts["not_finite"] += NOT_FINITE in message

    def round(self, row: Row) -> None:
        """A row of ``rounds``."""
        self._write("rounds", row)

    def _write(self, table: str, row: Row) -> None:
        self.waiting.append((table, {name: value for name, value in row.items() if name not in self._withheld}))
        if not self._hold:
            self.publish()

    def publish(self) -> None:
        """Write the rows that wait."""
        for table, row in self.waiting:
            if table == "updates":
                self._log.add_update(row)
            else:
                self._log.add_round(row)
                self._on_round({**row, "clients": self.ended})
        self.waiting = []
