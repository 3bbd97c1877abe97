"""One ServerApp at a time writes a run directory; that of a SuperLink that has just died lives on for seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedopt.runlog import RunLogError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE_S = 30.0


@contextmanager
def sole_writer(
    directory: Path, patience_s: float = PATIENCE_S, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """Hold a run directory for the length of a ``with`` block, with a lock that ends with the process.

    Args:
        directory: exists.
        patience_s: seconds to wait for another holder to end.
        sleep: waits; replaced in tests.
    Raises:
        RunLogError: another process still holds it.
    """
    if fcntl is None:
        yield
        return
    held = os.open(directory, os.O_RDONLY)
    try:
        end = time.monotonic() + patience_s
        while not _lock(held):
            if time.monotonic() > end:
                raise RunLogError(
                    f"{directory} is being written by another process; end that one first, or use another run directory"
                )
            sleep(0.5)
        yield
    finally:
        os.close(held)


def _lock(held: int) -> bool:
    """Whether the lock was free and is ours now."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
