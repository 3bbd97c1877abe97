"""One ServerApp at a time writes a run directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl")

from fedopt.flower.sole_writer import sole_writer
from fedopt.runlog import RunLogError

HOLD = """
import sys, time
from pathlib import Path
from fedopt.flower.sole_writer import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_waits_for_the_first_and_gives_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(RunLogError, match="being written by another process"), sole_writer(tmp_path, 0.0):
                pytest.fail("two processes hold one run directory")

            def end_it(seconds: float) -> None:  # killed, as a ServerApp is: the lock must not outlive it
                other.kill()
                other.wait()

            with sole_writer(tmp_path, sleep=end_it):
                assert list(tmp_path.iterdir()) == []
        finally:
            other.kill()


def test_a_directory_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), sole_writer(tmp_path):
        raise KeyError
    with sole_writer(tmp_path, 0.0):
        pass
