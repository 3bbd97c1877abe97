"""Whether durations under privacy depend only on public facts: when a reply arrives decides which release it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedopt.devices.base import Fleet
from fedopt.types import Message

if TYPE_CHECKING:
    from fedopt.scenario import Scenario

_SMALL, _LARGE = 3, 1000  # numbers of examples whose durations are compared


def private_durations(scenario: Scenario, timed: bool) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The refusal of durations that depend on a client's private number of examples.

    Args:
        scenario: with privacy.
        timed: whether arrival times decide anything: asynchronous pacing, or a deadline.
    """
    privacy = scenario.privacy
    assert privacy is not None
    if not timed or privacy.unit != "client" or "num_examples" in getattr(scenario.data, "public", ()):
        return
    if _depends_on_examples(scenario):
        yield (
            ("devices", "compute"),
            "a client's duration depends on its private number of examples and decides which release its reply is in; "
            "set client.steps and a batch size that every client can fill, use durations per task, or declare "
            "data.public: [num_examples]",
        )


def _depends_on_examples(scenario: Scenario) -> bool:
    message = Message({}, {"version": 0})
    work = [(scenario.client.planned_steps(n, message), scenario.client.batch_size_of(n)) for n in (_SMALL, _LARGE)]
    if work[0] == work[1]:
        return False
    clients = min(2, getattr(scenario.data, "clients", 2))
    try:
        times = scenario.devices.compute.bind(Fleet(0, clients, np.full(clients, _SMALL)))
    except OSError:
        return False  # a recorded trace that is not here: it replays times, and its absence is reported by the run
    return times.seconds(0, 0, *work[0]) != times.seconds(0, 0, *work[1])
