"""Ledgers that clients keep themselves: example-level privacy, paid for inside local training.

Clients hold disjoint data, so the run's epsilon is the largest over clients, never a sum. A client's records arrive
together, so the rate at which clients are sampled never multiplies the rate at which records are.
"""

from __future__ import annotations

import math
from typing import Any

from fedopt.privacy.base import Counted, Mechanism, Tally
from fedopt.privacy.events import PoissonSampled
from fedopt.types import Public

_GRID = 1.05  # sampling probabilities are rounded up to powers of this where every client's epsilon is asked for


def client_profiles(
    tally: Tally, mechanism: Mechanism, public: Public, scenario: Any, rounded: bool = False
) -> dict[int, Counted]:
    """Ledger of every client that did local steps on examples of its own: one event per step.

    Args:
        tally: local steps per client.
        mechanism: has ``step_event(client, public, scenario)``.
        public: public constants.
        scenario: the scenario.
        rounded: round sampling probabilities up to a grid (a valid upper bound with few distinct ledgers).
    """
    found: dict[int, Counted] = {}
    for client, steps in sorted(tally.local_steps.items()):
        nobody = public.num_examples is not None and not public.num_examples[client]
        if steps and not nobody:
            event = mechanism.step_event(client, public, scenario)  # type: ignore[attr-defined]
            found[client] = ((_round_up(event) if rounded else event, steps),)
    return found


def _round_up(event: Any) -> Any:
    if not isinstance(event, PoissonSampled) or event.probability >= 1:
        return event
    power = math.ceil(math.log(event.probability) / math.log(_GRID))
    return PoissonSampled(min(1.0, _GRID**power), event.event)


def worst_profiles(profiles: dict[int, Counted]) -> list[Counted]:
    """Those that no other dominates: more steps and a larger sampling probability at the same noise cost more."""
    distinct = {profile[0] for profile in profiles.values()}
    ranked = sorted(distinct, key=lambda item: (-_rate(item[0]), -item[1]))
    front: list[tuple[Any, int]] = []
    most = 0
    for event, steps in ranked:
        if steps > most:
            front.append((event, steps))
            most = steps
    return [(item,) for item in front]


def _rate(event: Any) -> float:
    return event.probability if isinstance(event, PoissonSampled) else 1.0
