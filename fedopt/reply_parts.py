"""What replies consist of: the client's work must send what the aggregator takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fedopt.clients.base import ClientWork
from fedopt.components import components
from fedopt.problems import Problem

if TYPE_CHECKING:
    from fedopt.scenario import Scenario


def unanswered(scenario: Scenario) -> list[Problem]:
    """The refusal of a client whose replies lack what the aggregator takes; empty if they fit. No torch."""
    wanted, sent = scenario.aggregator.reply_parts(), type(scenario.client).sends
    if set(wanted) <= set(sent):
        return []
    works = cast("dict[str, type[ClientWork]]", components("fedopt.clients"))
    fitting = [f"{{kind: {kind}}}" for kind, work in works.items() if set(wanted) <= set(work.sends)]
    message = (
        f"{scenario.client.kind()} sends {' and '.join(sent)}, but aggregator {scenario.aggregator.kind()} takes "
        f"{' and '.join(wanted)} from replies; use client: {' or '.join(fitting)}"
    )
    return [Problem(path=("client", "kind"), message=message)]
