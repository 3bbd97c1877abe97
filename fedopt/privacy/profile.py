"""The worst ledger of a run: which events, how often, dominate what any one client has paid.

Without amplification a client pays for the releases it was part of. Clients differ, so the run's epsilon is the largest
over clients. Instead of composing every client's ledger, one dominating ledger is composed, which is valid for all:

* a kind of event is charged as often as the client most often part of it;
* kinds that differ only in how much noise there was (survivors varied) are sorted from costly to cheap, and the j
  costliest kinds together are charged as often as any client was part of them together. Every client's ledger follows
  by replacing events with cheaper ones or leaving some out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedopt.privacy.base import Counted, Tally
from fedopt.privacy.events import Composed, PoissonSampled
from fedopt.privacy.releases import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    MatrixEvent,
    ShuffledSumEvent,
    ShuffleEvent,
    SkellamEvent,
    TreeEvent,
)

# The field that says how much noise there was: more is a post-processing of less.
_NOISE_FIELD: dict[type[Event], str] = {
    GaussianEvent: "noise_multiplier",
    TreeEvent: "noise_multiplier",
    SkellamEvent: "variance",
    DiscreteGaussianEvent: "clients",
    ShuffleEvent: "clients",
    ShuffledSumEvent: "clients",
}


def sampled_profile(tally: Tally, probability: float) -> Counted:
    """Under Poisson sampling of clients every release is charged to everybody, amplified."""
    counts: dict[Event, int] = {}
    for events, releases in zip(tally.events, tally.releases, strict=True):
        for event in _sampled(events, probability):
            counts[event] = counts.get(event, 0) + (1 if isinstance(event, MatrixEvent) else releases)
    return tuple(counts.items())


def _sampled(events: Sequence[Event], probability: float) -> tuple[Event, ...]:
    """Events of one release under Poisson sampling: they share one coin, so they are sampled together."""
    shared = [event for event in events if not isinstance(event, MatrixEvent)]
    if probability >= 1 or not shared:
        return tuple(events)
    together = shared[0] if len(shared) == 1 else Composed(tuple(shared))
    return (PoissonSampled(probability, together), *(event for event in events if isinstance(event, MatrixEvent)))


def dominating_profile(tally: Tally) -> Counted:
    """Without amplification: what dominates every client's ledger.

    >>> tally = Tally()
    >>> tally.record((GaussianEvent(2.0),), [0, 1])
    >>> tally.record((GaussianEvent(1.0),), [1])
    >>> tally.record((GaussianEvent(1.0),), [2])
    >>> dominating_profile(tally)
    ((GaussianEvent(noise_multiplier=1.0), 1), (GaussianEvent(noise_multiplier=2.0), 1))
    """
    families: dict[Any, list[int]] = {}
    for i, events in enumerate(tally.events):
        families.setdefault(_family(events), []).append(i)
    counts: dict[Event, int] = {}
    for members in families.values():
        for events, count in _charged(tally, members):
            for event in events:
                counts[event] = counts.get(event, 0) + count
    return tuple((event, count) for event, count in counts.items() if count)


def _family(events: tuple[Event, ...]) -> Any:
    """What all members of an ordered family agree on; the events themselves if they have no order."""
    field = _NOISE_FIELD.get(type(events[0])) if len(events) == 1 else None
    if field is None:
        return events
    rest = tuple((name, value) for name, value in vars(events[0]).items() if name != field)
    return (type(events[0]).kind, rest)


def _charged(tally: Tally, members: Sequence[int]) -> list[tuple[tuple[Event, ...], int]]:
    if len(members) == 1:
        i = members[0]
        run_level = isinstance(tally.events[i][0], MatrixEvent)
        return [(tally.events[i], 1 if run_level else tally.most[i])]
    field = _NOISE_FIELD[type(tally.events[members[0]][0])]
    together: dict[int, int] = {}
    charged, before = [], 0
    for i in sorted(members, key=lambda i: getattr(tally.events[i][0], field)):
        for client, count in tally.participations[i].items():
            together[client] = together.get(client, 0) + count
        most = max(together.values(), default=0)
        charged.append((tally.events[i], most - before))
        before = most
    return charged


def with_next(profile: Counted, events: Sequence[Event], probability: float, limit: int | None) -> Counted:
    """The profile after one more release whose participants may include the client that has paid most.

    Args:
        events: of the next release.
        probability: Poisson amplification; 1 without.
        limit: enforced participations of one client, or None.
    """
    counts = dict(profile)
    for event in _sampled(events, probability):
        if isinstance(event, MatrixEvent):
            counts[event] = 1
            continue
        alike = [known for known, count in counts.items() if count and _family((known,)) == _family((event,))]
        if limit is not None and sum(counts[known] for known in alike) >= limit:
            # Whoever takes part once more has done so less often: at worst it lacked the cheapest of these.
            cheapest = max(alike, key=_noise)
            if _noise(event) >= _noise(cheapest):
                continue
            counts[cheapest] -= 1
        counts[event] = counts.get(event, 0) + 1
    return tuple((event, count) for event, count in counts.items() if count)


def covers(planned: Counted, profile: Counted) -> bool:
    """Whether ``planned`` surely costs at least as much: of every kind, its j-th costliest is no cheaper, for every j.

    >>> covers(((GaussianEvent(1.0), 2),), ((GaussianEvent(1.0), 1), (GaussianEvent(3.0), 1)))
    True
    >>> covers(((GaussianEvent(1.0), 1), (GaussianEvent(3.0), 1)), ((GaussianEvent(2.0), 2),))
    False
    """
    for event, count in profile:
        family, noise = _family((event,)), _noise(event)
        so_far, allowed = (
            sum(n for other, n in ledger if _family((other,)) == family and _noise(other) <= noise)
            for ledger in (profile, planned)
        )
        if count and so_far > allowed:
            return False
    return True


def _noise(event: Event) -> float:
    """How much noise an event has, among those of its family; 0 where there is no order."""
    field = _NOISE_FIELD.get(type(event))
    return float(getattr(event, field)) if field is not None else 0.0


def as_mapping(profile: Counted) -> list[dict[str, Any]]:
    """JSON-ready: every event with its count."""
    return [{"event": event.to_dict(), "count": count} for event, count in profile]
