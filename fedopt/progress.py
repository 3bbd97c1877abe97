"""Live view of a run: a status line with rich in a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

LINE_SECONDS = 5.0
REFRESH_SECONDS = 0.1


class Progress:
    """Shows step, virtual time, metric, clients per second and time left.

    Use as a context manager, or call ``start`` and ``finish``. In a terminal one line is redrawn; otherwise a plain
    line is printed at most every ``LINE_SECONDS``, besides the first and the last.

    Args:
        total_steps: planned server steps, or None if the run ends by something else.
        quiet: show nothing at all.
        stream: where to write; standard error by default, so that output can be piped.
        clock: what the times are, in words.
        clients_before: client tasks finished before this process took the run up; they are none of its speed.
    """

    def __init__(
        self,
        total_steps: int | None,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: str = "virtual time",
        clients_before: int = 0,
    ):
        self.total_steps, self.quiet, self.clock, self.clients_before = total_steps, quiet, clock, clients_before
        self._stream = stream
        self._rich: RichProgress | None = None
        self._row: dict[str, Any] = {}
        self._steps_before = 0
        self._began, self._shown, self._metric = 0.0, 0.0, ""
        self._is_unseen = False

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def start(self) -> None:
        """Begin the view; the clock for speeds and time left starts here."""
        self._began = time.monotonic()
        self._stream = self._stream or sys.stderr
        if not self.quiet and self._stream.isatty():
            self._rich = self._live(self._stream)
            self._rich.start()

    def update(self, row: Mapping[str, Any]) -> None:
        """Show a row of the rounds table.

        Args:
            row: uses ``step``, ``time_s``, ``metric_name``, ``metric_value``, ``train_loss``, ``epsilon`` and
                ``clients`` (client tasks finished so far); any may be missing.
        """
        is_first = not self._row
        self._row = dict(row)
        if is_first:
            # Speeds of a resumed run count from where this process started.
            self._steps_before = max(0, int(row.get("step") or 0) - 1)
        if row.get("metric_value") is not None:
            self._metric = _metric(row)
        now = time.monotonic()
        wait = REFRESH_SECONDS if self._rich is not None else LINE_SECONDS
        if self.quiet or not (is_first or self._is_last() or now - self._shown >= wait):
            self._is_unseen = True
            return
        self._shown = now
        self._show()

    def note(self, message: str) -> None:
        """Print a message above the view."""
        if self.quiet:
            return
        if self._rich is not None:
            self._rich.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=self._stream or sys.stderr, flush=True)

    def finish(self) -> None:
        """End the view; the last row is shown and stays visible. Safe to call twice."""
        if self._is_unseen and not self.quiet:
            self._show()
        if self._rich is not None:
            self._rich.stop()
            self._rich = None

    def line(self) -> str:
        """The present state in words, for a plain line."""
        step, total = int(self._row.get("step") or 0), self.total_steps
        parts = [f"step {step}/{total}" if total else f"step {step}"]
        if self._row.get("time_s") is not None:
            parts.append(f"{self.clock} {self._row['time_s']:.4g} s")
        if self._metric:
            parts.append(self._metric)
        elif self._row.get("train_loss") is not None:
            parts.append(f"training loss {self._row['train_loss']:.4g}")
        if self._row.get("epsilon") is not None:
            parts.append(f"epsilon {self._row['epsilon']:.3g}")
        return ", ".join([*parts, *self._speed(step)])

    def _speed(self, step: int) -> list[str]:
        elapsed = time.monotonic() - self._began
        if elapsed <= 0:
            return []
        clients = int(self._row.get("clients") or 0) - self.clients_before
        found = [f"{clients / elapsed:.3g} clients/s"] if clients > 0 else []
        made = step - self._steps_before
        if self.total_steps and made > 0 and not self._is_last():
            found.append(f"{_clock((self.total_steps - step) * elapsed / made)} left")
        return found

    def _is_last(self) -> bool:
        return self.total_steps is not None and int(self._row.get("step") or 0) >= self.total_steps

    def _show(self) -> None:
        self._is_unseen = False
        if self._rich is None:
            print(self.line(), file=self._stream, flush=True)
            return
        self._rich.update(self._rich.task_ids[0], completed=int(self._row.get("step") or 0), words=self.line())

    def _live(self, stream: TextIO) -> RichProgress:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        # The words hold speed and time left already; markup is off because messages may hold brackets.
        columns = (BarColumn(bar_width=20), TextColumn("{task.fields[words]}", markup=False))
        live = RichProgress(*columns, console=Console(file=stream), refresh_per_second=8)
        live.add_task("run", total=self.total_steps, words="starting")
        return live


def _metric(row: Mapping[str, Any]) -> str:
    name, value = row.get("metric_name") or "metric", float(row["metric_value"])
    return f"{name} {100 * value:.2f} %" if "accuracy" in name else f"{name} {value:.4g}"


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss.

    >>> _clock(75), _clock(3725)
    ('1:15', '1:02:05')
    """
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
