"""Fixtures of the mechanism tests."""

from __future__ import annotations

import pytest
from privacy_cohorts import SeededNoise


@pytest.fixture
def noise() -> SeededNoise:
    """Seeded named streams."""
    return SeededNoise()
