"""Shared settings of the test suite."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Two workers on two cores: more threads than that only wait for each other."""
    import torch

    torch.set_num_threads(1)
