"""How long tasks take on average, as methods that weight by speed need it; None where the devices do not say."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

from fedopt.data.base import FederatedData
from fedopt.scenario import Scenario
from fedopt.simulation.fleet import DeviceClock
from fedopt.types import Message, Ticks

# Expected durations are listed for methods that weight by speed; beyond this many clients that list is not built.
LISTED_CLIENTS = 200_000
# Expected ticks of random durations: strata per client, and the effort they may cost in all.
MOST_STRATA, FEWEST_STRATA, STRATA_IN_ALL = 2_000, 200, 400_000
# Expected durations are asked for once per distinct batch size; with more than this they count as unknown.
MOST_BATCH_SIZES = 200


def _planned(scenario: Scenario, data: FederatedData) -> tuple[list[int], list[int]]:
    """(local steps, batch size) of every client's tasks."""
    message, sizes = Message({}, {"version": 0}), data.clients.sizes().tolist()
    return [scenario.client.planned_steps(n, message) for n in sizes], [scenario.client.batch_size_of(n) for n in sizes]


def _times_are_known(scenario: Scenario, data: FederatedData) -> bool:
    """Whether a task's time is its compute time, of the planned work, and the population small enough to list."""
    devices = scenario.devices
    return (
        data.clients.num_clients <= LISTED_CLIENTS
        and devices.network.kind() == "none"
        and devices.work.kind() == "full"
    )


def _every_task_replies(scenario: Scenario) -> bool:
    """Whether how often a client replies follows from its task times alone."""
    devices = scenario.devices
    return devices.dropout == 0 and not devices.interrupt and devices.availability.kind() == "always"


def _mean_seconds(clock: DeviceClock, steps: list[int], batches: list[int]) -> list[Any] | None:
    """E[T_i] of every client, asked once per distinct batch size; None if unknown or of too many batch sizes."""
    distinct = sorted(set(batches))
    if len(distinct) > MOST_BATCH_SIZES:
        return None
    found: list[Any] = [None] * len(batches)
    for size in distinct:
        times = clock.compute.expected(steps, size)
        if times is None:
            return None
        for client, batch in enumerate(batches):
            if batch == size:
                found[client] = times[client]
    return found


def mean_seconds(scenario: Scenario, data: FederatedData, clock: DeviceClock) -> list[Any] | None:
    """E[T_i] of every client's computing, for the planned work; None if unknown or of too many clients."""
    if data.clients.num_clients > LISTED_CLIENTS:
        return None
    return _mean_seconds(clock, *_planned(scenario, data))


def expected_seconds(scenario: Scenario, data: FederatedData, clock: DeviceClock) -> Any:
    """E[T_i] of every client, where the devices say how often each will reply."""
    if not _times_are_known(scenario, data) or not _every_task_replies(scenario):
        return None
    return mean_seconds(scenario, data, clock)


def equal_work_seconds(scenario: Scenario, data: FederatedData, clock: DeviceClock) -> Any:
    """E[T_i] of every client for one and the same work, for methods that choose the work by the speed."""
    if not _times_are_known(scenario, data):
        return None
    steps, batches = _planned(scenario, data)
    return _mean_seconds(clock, [max(steps, default=1)] * len(steps), [max(batches, default=1)] * len(batches))


def expected_ceil(scenario: Scenario, data: FederatedData, clock: DeviceClock) -> Any:
    """dt -> E[ceil(T_i / dt)] of every client; None if unknown.

    In closed form where the device model has one, else over equally likely strata of the client's random times.
    """
    clients = data.clients.num_clients
    quantiles = getattr(clock.compute, "quantiles", None)
    if quantiles is None or not _times_are_known(scenario, data) or not _every_task_replies(scenario):
        return None
    closed = getattr(clock.compute, "expected_ceil", None)
    if closed is not None:
        return lambda period: [closed(float(period), client) for client in range(clients)]
    count = min(MOST_STRATA, STRATA_IN_ALL // max(1, clients))
    if count < FEWEST_STRATA:
        return None
    steps, batches = _planned(scenario, data)

    if any(quantiles(client, steps[client], batches[client], 1) is None for client in range(clients)):
        return None

    @lru_cache(maxsize=1)
    def durations() -> list[list[Ticks]]:  # only once somebody asks: most methods never do
        found = (quantiles(client, steps[client], batches[client], count) for client in range(clients))
        return [[clock.ticks(t) for t in times] for times in found]

    def ceiling(period: Fraction) -> list[float]:
        tick = clock.ticks(period)
        return [sum(max(1, -(-t // tick)) for t in times) / count for times in durations()]

    return ceiling
