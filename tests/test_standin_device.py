"""Whole runs on a stand-in for a GPU, in processes of their own.

PyTorch's autograd asks for the number of devices at the first backward pass of a process, and another test may have
made that before the stand-in is there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from standin import REGISTER

RUNS = Path(__file__).with_name("standin_runs.py")
PARTS = ("zeroth_order_methods", "scenario_files", "aggregators", "formulations or refuses")


@pytest.mark.skipif(REGISTER is None, reason="this PyTorch registers no devices from Python")
@pytest.mark.parametrize("part", PARTS)
def test_runs_on_a_device_that_is_not_the_cpu(part):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(RUNS), "-k", part]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0 and "passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-4000:]
