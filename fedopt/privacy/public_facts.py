"""What is public before the data are loaded, and what a scenario makes of private data without noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fedopt.types import Public

if TYPE_CHECKING:
    from fedopt.scenario import Scenario


def public_of(scenario: Scenario) -> Public | None:
    """Public facts known without loading the data; None if the number of clients is not in the scenario."""
    clients = getattr(scenario.data, "clients", None)
    if not isinstance(clients, int):
        return None
    public = Public(
        num_clients=clients,
        expected_cohort=scenario.sampling.expected_cohort(clients),
        is_private=True,
        num_examples=_assumed_sizes(scenario, clients),
        horizon=scenario.run.server_steps,
        # Durations belong to the devices; a method that needs them is asked again when they are known.
        seconds_per_task=[1.0] * clients,
        seconds_for_equal_work=[1.0] * clients,
        expected_ceil=lambda period: [1.0] * clients,
        concurrency=scenario.sampling.slots(clients),
    )
    return public.closed_by(scenario.aggregator.plan(None, public).close)


def _assumed_sizes(scenario: Scenario, clients: int) -> Any:
    """Equal sizes where they are public: only their being known matters here."""
    import numpy as np

    declared = "num_examples" in getattr(scenario.data, "public", ())
    return np.full(clients, 100) if declared else None


def private_statistics(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The refusal of inputs standardised by statistics of private examples: no noise covers that release."""
    if getattr(scenario.data, "standardize", False) and "feature_statistics" not in getattr(
        scenario.data, "public", ()
    ):
        yield (
            ("data", "standardize"),
            "means and deviations of all training examples move every input, and no noise covers them; set "
            "standardize: false, or declare them as known to everybody with data.public: [feature_statistics]",
        )
