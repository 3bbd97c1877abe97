"""How long tasks take on average, and in how many ticks a client contributes once, as weights by speed need it."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedopt.devices.base import Fleet
from fedopt.simulation.expected_times import equal_work_seconds, expected_ceil, expected_seconds
from fedopt.simulation.fleet import DeviceClock
from scenarios import small


def known(devices: dict[str, Any], sizes: list[int], client: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """(expected seconds of every client's task, expected seconds for equal work)."""
    scenario = small(devices=devices, client={"kind": "sgd", "batch_size": 10, **(client or {})})
    counts = np.array(sizes, dtype=np.int64)
    data: Any = SimpleNamespace(clients=SimpleNamespace(num_clients=len(sizes), sizes=lambda: counts))
    clock = DeviceClock(scenario.devices, Fleet(0, len(sizes), counts))
    return expected_seconds(scenario, data, clock), equal_work_seconds(scenario, data, clock)


def test_times_of_a_task_and_times_for_equal_work() -> None:
    """25, 4 and 40 examples in batches of 10: 3 steps, 1 and 4; for equal work everybody takes 4 of 10."""
    work = {"kind": "work", "seconds_per_example": 0.5, "between_sigma": 0.0, "within_sigma": 0.0}
    own, equal = known({"compute": work}, [25, 4, 40])
    assert own == pytest.approx([0.5 * 3 * 10, 0.5 * 1 * 4, 0.5 * 4 * 10]) and equal == pytest.approx([20.0] * 3)


@pytest.mark.parametrize(
    "fault",
    [
        {"dropout": 0.1},
        {"interrupt": True},
        {"availability": {"kind": "bernoulli"}},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_times_do_not_say_how_often_a_client_replies_where_replies_are_lost(fault: dict[str, Any]) -> None:
    compute = {"compute": {"kind": "constant", "seconds": [2.0]}}
    assert known(compute, [5, 5]) == ([2, 2], [2, 2])
    assert known({**compute, **fault}, [5, 5]) == (None, [2, 2])


@pytest.mark.parametrize("other", [{"network": {"kind": "bandwidth"}}, {"work": {"kind": "partial_uniform"}}])
def test_times_with_transfers_or_partial_work_are_unknown(other: dict[str, Any]) -> None:
    assert known({"compute": {"kind": "constant", "seconds": [2.0]}, **other}, [5, 5]) == (None, None)


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
