"""In how many ticks a client of random speed contributes once, as the weights of FedFix need it."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedopt.devices.base import Fleet
from fedopt.simulation.expected_times import expected_ceil
from fedopt.simulation.fleet import DeviceClock
from scenarios import small


def ticks(compute: dict[str, Any], clients: int, periods: list[float]) -> list[float]:
    """E[ceil(T / period)] of the first of so many clients, per period."""
    scenario = small(devices={"compute": compute}, client={"kind": "sgd", "lr": 0.1, "batch_size": 1, "steps": 1})
    sizes = np.ones(clients, dtype=np.int64)
    data: Any = SimpleNamespace(clients=SimpleNamespace(num_clients=clients, sizes=lambda: sizes))
    found = expected_ceil(scenario, data, DeviceClock(scenario.devices, Fleet(0, clients, sizes)))
    return [float(found(Fraction(str(period)))[0]) for period in periods]


@pytest.mark.parametrize("mean", [0.5, 2.0])
@pytest.mark.parametrize("period", [0.1, 0.3, 1.0, 3.0])
def test_exponential_times_are_exact_in_any_population(mean: float, period: float) -> None:
    series = float(np.exp(-np.arange(4_000) * period / mean).sum())  # sum over k of P(T > k period)
    assert ticks({"kind": "exponential", "mean_s": mean}, 2_000, [period]) == pytest.approx([series], rel=1e-9)


@pytest.mark.parametrize(("clients", "error"), [(200, 5e-4), (2_000, 4e-3)])
def test_the_stated_error_of_strata(clients: int, error: float) -> None:
    periods = [0.3, 0.8, 2.4]
    exact = [math.fsum(math.erfc(k * period / 2**0.5) for k in range(100)) for period in periods]
    assert ticks({"kind": "half_normal", "scale": 1.0}, clients, periods) == pytest.approx(exact, rel=error)
