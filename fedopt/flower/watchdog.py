"""Ends Flower's programs when the process that started them is gone. Runs alone: imports nothing of fedopt.

Programs are recognised by a secret mark in their environment, which everything they start inherits: a SuperLink puts
its ServerApps into sessions of their own. Where there is no /proc, the process groups of what was started are ended.

Usage: watchdog MARK, with ``+PID`` lines on the standard input; at its end (the parent ended, however) all are stopped.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

MARK = "FEDOPT_DEPLOYMENT"
GRACE_S = 8.0


def marked(mark: str) -> list[int]:
    """Ids of the living processes whose environment holds ``FEDOPT_DEPLOYMENT=mark``."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            is_dead = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        except OSError:  # ended meanwhile, or not ours
            continue
        if wanted in environment and not is_dead:
            found.append(int(entry.name))
    return found


def _living_groups(groups: list[int]) -> list[int]:
    found = []
    for group in groups:
        try:
            os.killpg(group, 0)
            found.append(group)
        except OSError:
            continue
    return found


def stop(mark: str, groups: list[int], grace_s: float = GRACE_S) -> None:
    """Ask everything marked to end, wait, then make it."""
    has_proc = Path("/proc/self/environ").exists()
    for sent, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        end = time.monotonic() + wait_s
        told: set[int] = set()
        while left := (marked(mark) if has_proc else _living_groups(groups)):
            for process in set(left) - told:  # also those that were just being started
                try:
                    (os.kill if has_proc else os.killpg)(process, sent)
                except ProcessLookupError:
                    continue
            told |= set(left)
            if time.monotonic() > end:
                break
            time.sleep(0.1)


def main() -> None:
    """Watch the standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    groups = [int(line[1:]) for line in sys.stdin if line.startswith("+")]
    stop(sys.argv[1], groups)


if __name__ == "__main__":
    main()
