"""What a person sees while a comparison runs: a line per finished run, and how far the others are."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from fedopt.progress import _clock as clock
from fedopt.runlog import read_summary, run_state
from fedopt.runlog.reader import ROUNDS_RUNNING

EVERY_S = 20.0  # real seconds between lines while no run ends


class View:
    """Lines on standard error. Runs that are trained together, or take long, are followed in their directories.

    Args:
        directories: of the runs to execute; what they have written tells how far they are, in any process.
        steps: server steps each will make, None if it ends otherwise.
        reused: runs that were there already.
        quiet: say nothing.
        later: runs that follow these, counted in the time left.
        every_s: real seconds between lines while no run ends.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        steps: Sequence[int | None],
        reused: int,
        quiet: bool,
        later: int = 0,
        every_s: float = EVERY_S,
    ):
        self._steps = dict(zip(directories, steps, strict=True))
        self._quiet, self._later, self._every_s = quiet, later, every_s
        self._ended: set[Path] = set()
        self._began = time.monotonic()
        self._made_before = {each: steps_made(each) for each in directories}  # by a comparison that was cut short
        self._turn, self._over = threading.Lock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._say(
            f"{len(directories)} runs to execute, {reused} reused" + (f"; then at most {later} more" if later else "")
        )

    def __enter__(self) -> View:
        if not self._quiet and self._steps:
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._ticker.is_alive():
            self._ticker.join()

    def show(self, directory: Path, label: str, how: str, wall_s: float, error: str) -> None:
        """After one run."""
        if self._quiet:
            return
        with self._turn:
            self._ended.add(directory)
            words = f"failed: {error}" if how == "failed" else _headline(directory, how)
            self._say(f"[{len(self._ended)}/{len(self._steps)}] {label}: {words} ({wall_s:.1f} s){self._left()}")

    def _tick(self) -> None:
        while not self._over.wait(self._every_s):
            with self._turn:
                under_way = self._under_way()
                made = sum(under_way.values())
                if made:
                    runs = f"{len(under_way)} run{'s' if len(under_way) > 1 else ''}"
                    self._say(f"... {made} server steps made in {runs} under way{self._left()}")

    def _under_way(self) -> dict[Path, int]:
        """Steps made by every run that has begun and not ended."""
        made = {each: steps_made(each) for each in self._steps if each not in self._ended}
        return {each: count for each, count in made.items() if count}

    def _left(self) -> str:
        """Time left, from the share of all work that was done since the beginning; empty at the end."""
        done = sum(self._share(each) for each in self._steps)
        if done <= 0 or len(self._ended) == len(self._steps) + self._later:
            return ""
        remaining = max(0.0, len(self._steps) + self._later - done)
        return f"; about {clock(remaining * (time.monotonic() - self._began) / done)} left"

    def _share(self, directory: Path) -> float:
        """Of a run's work, what was done since the beginning; runs of a batch are finished before they are shown."""
        if directory in self._ended or run_state(directory) == "finished":
            return 1.0
        planned = self._steps[directory]
        return min(1.0, (steps_made(directory) - self._made_before[directory]) / planned) if planned else 0.0

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)


def steps_made(directory: Path) -> int:
    """Server steps that an unfinished run has written down; 0 of one that has not begun or is finished."""
    try:
        return (directory / ROUNDS_RUNNING).read_bytes().count(b"\n")
    except OSError:
        return 0


def _headline(directory: Path, how: str) -> str:
    summary = read_summary(directory)
    value, name = summary.get("final_metric"), summary.get("metric_name") or "metric"
    shown = "no metric" if value is None else f"{name} {value:.4f}"
    epsilon = f", epsilon {summary['epsilon']:.3g}" if summary.get("epsilon") is not None else ""
    return f"{how}, {summary.get('status')}, {shown}{epsilon}"
