"""What was released, as data: frozen events that an accountant turns into epsilon.

Conventions, the same for every event:

* A **noise multiplier** is noise standard deviation divided by the *clipping norm* C, the norm bound of one unit's
  contribution (for Laplace: scale over the L1 clipping norm). It does not know the relation: the accountant divides
  by the sensitivity, which is C under ``add_or_remove_one`` and ``zero_out_one`` and 2C under ``replace_one``.
  Local noise of standard deviation ``2 * z * C`` is therefore ``GaussianEvent(2 * z)`` under ``replace_one``.
* One event is **one participation** of the unit. Ten steps in which the unit takes part are ``Repeated(event, 10)``.
* Sampling wraps the release whose participants were drawn: ``PoissonSampled(0.01, GaussianEvent(1.0))``.

Every event names the relations under which it can be bounded; ``require_relation`` refuses the others with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from fedopt.privacy.releases import (
    RELATIONS,
    AccountingError,
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    LaplaceEvent,
    MatrixEvent,
    NonPrivateEvent,
    PureEvent,
    Relation,
    ShuffledSumEvent,
    ShuffleEvent,
    SkellamEvent,
    TreeEvent,
    require,
)

__all__ = [
    "RELATIONS",
    "AccountingError",
    "Composed",
    "DiscreteGaussianEvent",
    "Event",
    "FixedSizeSampled",
    "GaussianEvent",
    "LaplaceEvent",
    "MatrixEvent",
    "NonPrivateEvent",
    "PoissonSampled",
    "PureEvent",
    "Relation",
    "Repeated",
    "ShuffleEvent",
    "ShuffledSumEvent",
    "SkellamEvent",
    "TreeEvent",
    "TruncatedPoissonSampled",
    "flatten",
    "from_dict",
    "gaussian_mu",
    "is_gaussian",
    "require_relation",
]


def _require_fresh_noise(event: Event) -> None:
    """Sampling amplifies a release with noise of its own, not one whose noise is shared with other steps."""
    shared = next((leaf for leaf, _ in flatten(event) if isinstance(leaf, (TreeEvent, MatrixEvent))), None)
    if shared is not None:
        raise AccountingError(
            f"sampling does not amplify {shared.kind}: its noise is shared between steps. Account it without sampling "
            "(zero_out_one or replace_one), or use banded noise whose groups are sampled, which is PoissonSampled("
            "GaussianEvent)"
        )


@dataclass(frozen=True)
class PoissonSampled(Event):
    """The unit takes part independently with ``probability``, hidden from whoever sees the release."""

    probability: float
    event: Event
    kind: ClassVar[str] = "poisson_sampled"
    relation_reason: ClassVar[str] = (
        "Poisson sampling under replace_one has a proved pair for Gaussian noise only; use zero_out_one"
    )

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, f"probability must be in [0, 1], got {self.probability}")
        _require_fresh_noise(self.event)

    def valid_relations(self) -> tuple[Relation, ...]:
        """Those of the inner event; replace-one only for Gaussian noise."""
        inner = self.event.valid_relations()
        return inner if is_gaussian(self.event) else tuple(r for r in inner if r != "replace_one")


@dataclass(frozen=True)
class FixedSizeSampled(Event):
    """``sample_size`` of ``population`` units drawn uniformly without replacement, hidden; replace-one only."""

    sample_size: int
    population: int
    event: Event
    kind: ClassVar[str] = "fixed_size_sampled"
    relations: ClassVar[tuple[Relation, ...]] = ("replace_one",)
    relation_reason: ClassVar[str] = (
        "sampling without replacement is proved for replace_one; use relation: replace_one, or Poisson sampling"
    )

    def __post_init__(self) -> None:
        sane = 1 <= self.sample_size <= self.population
        _require_fresh_noise(self.event)
        require(sane, f"need 1 <= sample_size <= population, got {self.sample_size} of {self.population}")

    def valid_relations(self) -> tuple[Relation, ...]:
        """Replace-one, if the inner event allows it."""
        return tuple(r for r in self.event.valid_relations() if r == "replace_one")


@dataclass(frozen=True)
class TruncatedPoissonSampled(Event):
    """Poisson sampling whose batch is cut to ``batch_limit`` of its members: costs more than plain Poisson.

    One unit can push another out of the batch, which is accounted (Gaussian noise only).
    """

    probability: float
    population: int
    batch_limit: int
    event: GaussianEvent
    kind: ClassVar[str] = "truncated_poisson_sampled"

    def __post_init__(self) -> None:
        require(0 < self.probability <= 1, f"probability must be in (0, 1], got {self.probability}")
        require(self.population >= 1 and self.batch_limit >= 1, f"population and batch_limit must be >= 1: {self}")
        require(isinstance(self.event, GaussianEvent), "truncated batches are accounted for Gaussian noise only")


@dataclass(frozen=True)
class Repeated(Event):
    """The same event ``count`` times, with fresh randomness and adaptively chosen."""

    event: Event
    count: int
    kind: ClassVar[str] = "repeated"

    def __post_init__(self) -> None:
        require(self.count >= 0, f"count must be >= 0, got {self.count}")

    def valid_relations(self) -> tuple[Relation, ...]:
        """Those of the inner event."""
        return self.event.valid_relations()


@dataclass(frozen=True)
class Composed(Event):
    """Several events one after the other."""

    events: tuple[Event, ...]
    kind: ClassVar[str] = "composed"

    def valid_relations(self) -> tuple[Relation, ...]:
        """Relations that all parts allow."""
        return tuple(r for r in RELATIONS if all(r in event.valid_relations() for event in self.events))


_KINDS: dict[str, type[Event]] = {cls.kind: cls for cls in Event.__subclasses__()}


# Releases that other software writes down and no accountant here can bound.
_REFUSED = {
    "random_allocation": "no accountant here proves amplification by allocating units to random steps; use "
    "poisson_sampled, or the release without sampling",
    "shuffled_epochs": "batches of a shuffled pass are not Poisson batches; use poisson_sampled with real Poisson "
    "batches, or one unsampled release per pass",
    "shuffled_gaussian": "only one direction of the divergence of shuffled Gaussian noise has a formula; use shuffle "
    "with a pure randomiser, or the local guarantee",
    "sampled_clients_and_examples": "a client's records arrive together, so the two rates do not multiply; use "
    "poisson_sampled with the rate of the records alone",
}


def from_dict(data: dict[str, Any]) -> Event:
    """The event a mapping describes; the inverse of ``Event.to_dict``.

    Raises:
        AccountingError: unknown kind, unknown or missing fields.

    >>> from_dict(PoissonSampled(0.01, GaussianEvent(1.0)).to_dict())
    PoissonSampled(probability=0.01, event=GaussianEvent(noise_multiplier=1.0))
    """
    kind = data.get("kind")
    if kind in _REFUSED:
        raise AccountingError(f"event kind {kind!r} is refused: {_REFUSED[kind]}")
    if kind not in _KINDS:
        raise AccountingError(f"unknown event kind {kind!r}; known: {', '.join(sorted(_KINDS))}")
    values: dict[str, Any] = {name: value for name, value in data.items() if name != "kind"}
    if isinstance(values.get("event"), dict):
        values["event"] = from_dict(values["event"])
    if isinstance(values.get("events"), list):
        values["events"] = tuple(from_dict(item) for item in values["events"])
    try:
        return _KINDS[kind](**values)
    except TypeError as error:
        raise AccountingError(f"event {kind!r} does not fit its fields: {error}") from error


def flatten(events: Event | Iterable[Event]) -> list[tuple[Event, int]]:
    """Leaves with their counts: ``Repeated`` and ``Composed`` resolved, equal leaves merged, in order of appearance.

    Composition does not depend on order, so *n times an event* and *a list of n events* are the same here by
    construction.

    >>> flatten([Repeated(GaussianEvent(1.0), 2), GaussianEvent(1.0)])
    [(GaussianEvent(noise_multiplier=1.0), 3)]
    """
    counts: dict[Event, int] = {}

    def visit(event: Event, count: int) -> None:
        if isinstance(event, Repeated):
            visit(event.event, count * event.count)
        elif isinstance(event, Composed):
            for part in event.events:
                visit(part, count)
        elif count:
            counts[event] = counts.get(event, 0) + count

    for event in [events] if isinstance(events, Event) else events:
        visit(event, 1)
    return list(counts.items())


def gaussian_mu(event: Event, relation: Relation) -> float | None:
    """mu of an event that is exactly one Gaussian release (mu-GDP), or None if it is not one."""
    sensitivity = 2.0 if relation == "replace_one" else 1.0
    if isinstance(event, GaussianEvent):
        return sensitivity / event.noise_multiplier
    if isinstance(event, TreeEvent):
        return sensitivity * math.sqrt(event.height) / event.noise_multiplier
    if isinstance(event, MatrixEvent):
        return sensitivity * event.sensitivity / event.noise_multiplier
    if isinstance(event, (Repeated, Composed)):
        parts = [(gaussian_mu(leaf, relation), count) for leaf, count in flatten(event)]
        if all(mu is not None for mu, _ in parts):
            return math.sqrt(sum(count * mu * mu for mu, count in parts if mu is not None))
    if isinstance(event, PoissonSampled) and event.probability == 1:
        return gaussian_mu(event.event, relation)
    return None


def is_gaussian(event: Event) -> bool:
    """Whether the event is exactly one Gaussian release."""
    return gaussian_mu(event, "zero_out_one") is not None


def require_relation(events: Event | Iterable[Event], relation: Relation) -> None:
    """Refuse a relation under which some event has no bound.

    Raises:
        AccountingError: names the event, the reason and the relations that work.
    """
    require(relation in RELATIONS, f"relation must be one of {', '.join(RELATIONS)}, got {relation!r}")
    for leaf, _ in flatten(events):
        allowed = leaf.valid_relations()
        if relation not in allowed:
            reason = type(leaf).relation_reason or "the inner event has no bound under it"
            usable = ", ".join(allowed) or "none: change the mechanism or the sampling"
            raise AccountingError(f"{leaf.kind} cannot be accounted under {relation}: {reason}. Usable: {usable}.")
