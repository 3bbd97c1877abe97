"""Fleets, and a way to test a mean that also shows that wrong means are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedopt.devices.base import Fleet

TOLERANCE_IN_STANDARD_ERRORS = 4.0


@pytest.fixture
def fleet() -> Callable[..., Fleet]:
    """Builds a fleet: ``fleet(num_clients, seed=0, num_examples=None, classes=None)``."""

    def build(num_clients: int, seed: int = 0, num_examples=None, classes=None) -> Fleet:
        sizes = np.arange(1, num_clients + 1) if num_examples is None else np.asarray(num_examples)
        return Fleet(seed, num_clients, sizes, classes)

    return build


@pytest.fixture
def check_mean() -> Callable[..., None]:
    """The sample has this mean, and has neither 2/3 nor 3/2 of it, within 4 standard errors."""

    def check(sample, mean: float) -> None:
        sample = np.asarray(sample, dtype=float)
        error = sample.std(ddof=1) / np.sqrt(len(sample))
        found = sample.mean()
        assert abs(found - mean) <= TOLERANCE_IN_STANDARD_ERRORS * error, f"{found} +- {error}, expected {mean}"
        for wrong in (2 / 3 * mean, 3 / 2 * mean):
            assert abs(found - wrong) > TOLERANCE_IN_STANDARD_ERRORS * error, f"cannot tell {mean} from {wrong}"

    return check


@pytest.fixture
def sample() -> Callable[..., np.ndarray]:
    """Times of one client's tasks: ``sample(model, fleet, tasks=4000, client=0, steps=1, batch=1)``."""

    def draw(model, fleet: Fleet, tasks: int = 4000, client: int = 0, steps: int = 1, batch: int = 1) -> np.ndarray:
        times = model.bind(fleet)
        return np.array([float(times.seconds(client, task, steps, batch)) for task in range(tasks)])

    return draw
