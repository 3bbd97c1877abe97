"""What replies consist of: the client's work must send what the aggregator takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fedopt.aggregators.base import Method
from fedopt.clients.base import ClientWork
from fedopt.components import components
from fedopt.problems import Problem

if TYPE_CHECKING:
    from fedopt.scenario import Scenario

FEW = 5  # names in a message


def unanswered(scenario: Scenario) -> list[Problem]:
    """The refusal of a client whose replies lack what the aggregator takes, or that needs what it does not send.

    Empty if they fit. No torch.
    """
    method, client = scenario.aggregator, type(scenario.client)
    wanted, carried = set(method.reply_parts()), set(method.message_parts())
    if wanted <= set(client.sends) and set(client.receives) <= carried:
        return []
    works = cast("dict[str, type[ClientWork]]", components("fedopt.clients"))
    methods = cast("dict[str, type[Method]]", components("fedopt.aggregators"))
    fitting = [kind for kind, work in works.items() if wanted <= set(work.sends) and set(work.receives) <= carried]
    use = "use client: " + " or ".join(f"{{kind: {kind}}}" for kind in fitting) if fitting else "use another aggregator"
    if wanted <= set(client.sends):
        missing = [part for part in client.receives if part not in carried]
        message = (
            f"{scenario.client.kind()} needs {' and '.join(missing)} from the server, which aggregator "
            f"{method.kind()} does not send; {use}, or an aggregator that does: "
            f"{', '.join(kind for kind, each in methods.items() if _sends(each, missing))}"
        )
    else:
        message = (
            f"{scenario.client.kind()} sends {' and '.join(client.sends)}, but aggregator {method.kind()} takes "
            f"{' and '.join(method.reply_parts())} from replies; {use}{_takers(methods, scenario)}"
        )
    return [Problem(path=("client", "kind"), message=message)]


def unfitting(scenario: Scenario) -> list[Problem]:
    """What the client's work has against the aggregator's settings, or the dimension where the scenario says it."""
    dimension = getattr(scenario.data, "dimension", None) if scenario.model.kind() == "point" else None
    found = scenario.client.problems(scenario.aggregator, dimension)
    return [Problem(path=("client", option), message=message) for option, message in found]


def _takers(methods: dict[str, type[Method]], scenario: Scenario) -> str:
    """The aggregators for a client that few go with, in words; those with a buffer where one is wanted."""
    client, buffered = type(scenario.client), getattr(scenario.aggregator, "buffer_size", None) is not None
    fitting = [kind for kind, each in methods.items() if _takes(each, client)]
    if buffered:
        fitting = [f"{kind} with buffer_size" for kind in fitting if "buffer_size" in methods[kind].model_fields]
    if not 0 < len(fitting) <= FEW:
        return ""
    return f", or an aggregator that takes {' and '.join(client.sends)}: {', '.join(fitting)}"


def _takes(method: type[Method], client: type[ClientWork]) -> bool:
    """Whether a method needs nothing else of a client's replies, as far as its defaults say."""
    try:
        return set(method().reply_parts()) <= set(client.sends)
    except ValueError:  # it needs settings
        return False


def _sends(method: type[Method], parts: list[str]) -> bool:
    """Whether a method's messages have these parts, as far as its defaults say."""
    try:
        return set(parts) <= set(method().message_parts())
    except ValueError:  # it needs settings
        return False
