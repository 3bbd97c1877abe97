"""Runs that would never end, or never make a step, seen before they start."""

from __future__ import annotations

from fedopt.data.base import FederatedData
from fedopt.scenario import Scenario
from fedopt.simulation.expected_times import mean_seconds
from fedopt.simulation.fleet import DeviceClock
from fedopt.types import Count, Every, Exchange, Public


def never_full(exchange: Exchange, public: Public) -> tuple[str, ...]:
    """Why a stream's buffer can never hold the replies of a step, with a remedy; empty if it can.

    Args:
        exchange: the aggregator's plan.
        public: public constants.
    """
    close = exchange.close
    if exchange.pacing != "stream" or not isinstance(close, Count):
        return ()
    slots = public.num_clients if public.concurrency is None else public.concurrency
    if exchange.restart == "at_step" and close.k > slots:
        return (
            f"a step needs {close.k} replies, but restart: at_step lets only {slots} clients work until then; lower "
            "buffer_size, raise the sampler's concurrency, or use restart: immediately",
        )
    if public.is_private and close.k > public.num_clients:
        return (
            f"a step needs {close.k} replies, but under privacy one client may move a release only once, and there are "
            f"{public.num_clients}; lower buffer_size",
        )
    return ()


def refuse(scenario: Scenario, data: FederatedData, clock: DeviceClock, exchange: Exchange) -> None:
    """Refuse a simulation that only virtual time would end, where no task takes any.

    Steps that a timer makes take time whatever the devices do; a privacy section or a target may end a run without it.

    Raises:
        ValueError: no time would pass.
    """
    run, devices = scenario.run, scenario.devices
    if run.time_s is None or run.server_steps is not None or run.target_metric is not None:
        return
    if scenario.privacy is not None or isinstance(exchange.close, Every) or devices.network.kind() != "none":
        return
    means = mean_seconds(scenario, data, clock)
    if means is not None and not any(means):
        raise ValueError(
            "run: local work and transfers take no time on these devices, so the run would never come to time_s = "
            f"{run.time_s:g}; set run.server_steps, or give devices.compute a duration"
        )
