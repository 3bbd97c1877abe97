"""Whether the schedule under privacy follows from public facts: who is there, how long it takes, which release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedopt.devices.base import Fleet, Seconds
from fedopt.types import Message

if TYPE_CHECKING:
    from fedopt.scenario import Scenario

Found = Iterator[tuple[tuple[str | int, ...], str]]
_SMALL, _LARGE = 3, 1000  # numbers of examples whose work and durations are compared


def sizes_are_private(scenario: Scenario) -> bool:
    """Whether numbers of examples are secret: of clients that are hidden, or whose examples come and go.

    Where one example is replaced or emptied, a client has as many as before.
    """
    privacy = scenario.privacy
    if privacy is None or "num_examples" in getattr(scenario.data, "public", ()):
        return False
    return privacy.unit == "client" or privacy.relation == "add_or_remove_one"


def times_decide(scenario: Scenario) -> bool:
    """Whether, in rounds, how long a client takes changes who is in a release or which releases there are."""
    devices = scenario.devices
    return rounds_are_timed(scenario) or devices.availability.kind() != "always" or devices.interrupt


def rounds_are_timed(scenario: Scenario) -> bool:
    """Whether a clock closes rounds, or ends the run."""
    sampling = scenario.sampling
    return sampling.deadline_s is not None or sampling.over_selection > 1 or scenario.run.time_s is not None


def private_durations(scenario: Scenario, timed: bool) -> Found:
    """The refusal of durations that depend on a client's private number of examples.

    Args:
        scenario: with privacy.
        timed: whether arrival times decide anything: asynchronous pacing, or a deadline.
    """
    if not timed or not sizes_are_private(scenario):
        return
    try:
        depends = _depends_on_examples(scenario)
    except ValueError as error:
        if isinstance(getattr(scenario.data, "clients", None), int):  # else there may be as many as it needs
            yield ("devices", "compute"), str(error)
        return
    if depends:
        yield (
            ("devices", "compute"),
            "a client's duration depends on its private number of examples and decides which release its reply is in; "
            f"{remedy(scenario)}",
        )


def remedy(scenario: Scenario) -> str:
    """What to do about work or durations that depend on private numbers of examples."""
    if scenario.privacy is not None and scenario.privacy.unit == "example":  # they cannot be public there
        return "use relation: zero_out_one or replace_one, or durations per task"
    return (
        "set client.steps and a batch size that every client can fill, use durations per task, or declare "
        "data.public: [num_examples]"
    )


def private_presence(scenario: Scenario) -> Found:
    """The refusal of availability that depends on private data: who takes part would say what clients hold."""
    reads, kind = scenario.devices.availability.reads(), scenario.devices.availability.kind()
    path = ("devices", "availability")
    if "labels" in reads:
        yield (
            path,
            f"{kind} makes clients available by the labels they hold, which are private; use bernoulli, lognormal, "
            "markov or diurnal",
        )
    if "num_examples" in reads and sizes_are_private(scenario):
        yield (
            path,
            f"{kind} makes clients available by their private numbers of examples; use bernoulli, lognormal, markov or "
            "diurnal, or declare data.public: [num_examples]",
        )


def work_depends_on_examples(scenario: Scenario) -> bool:
    """Whether a client with more examples makes more or larger steps."""
    few, many = _work(scenario, _SMALL), _work(scenario, _LARGE)
    return few != many


def _work(scenario: Scenario, examples: int) -> tuple[int, int]:
    """(local steps, batch size) of a client."""
    message = Message({}, {"version": 0})
    return scenario.client.planned_steps(examples, message), scenario.client.batch_size_of(examples)


def _depends_on_examples(scenario: Scenario) -> bool:
    if "num_examples" in scenario.devices.compute.reads():
        return True
    try:
        return _seconds(scenario, _SMALL) != _seconds(scenario, _LARGE)
    except OSError:
        return False  # a recorded trace that is not here: it replays times, and its absence is reported by the run


def _seconds(scenario: Scenario, examples: int) -> Seconds:
    """Time of the first task of a client where everybody has so many examples."""
    clients = getattr(scenario.data, "clients", 2)
    times = scenario.devices.compute.bind(Fleet(0, clients, np.full(clients, examples)))
    return times.seconds(0, 0, *_work(scenario, examples))
