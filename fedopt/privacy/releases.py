"""Releases of one mechanism, as data: Gaussian, Laplace, pure, tree, matrix, discrete and shuffled (see ``events``)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

Relation = Literal["add_or_remove_one", "zero_out_one", "replace_one"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)


class AccountingError(ValueError):
    """No valid bound exists, or the numbers are out of range; the message says what to use instead."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AccountingError(message)


@dataclass(frozen=True)
class Event:
    """Base of all events: plain numbers, hashable, written to and read from JSON."""

    kind: ClassVar[str]
    relations: ClassVar[tuple[Relation, ...]] = RELATIONS
    relation_reason: ClassVar[str] = ""

    def valid_relations(self) -> tuple[Relation, ...]:
        """Relations under which this event has a bound."""
        return type(self).relations

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping with ``kind``; nested events become mappings."""
        body = {field.name: _jsonable(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"kind": type(self).kind, **body}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Event):
        return value.to_dict()
    return [_jsonable(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class GaussianEvent(Event):
    """Gaussian noise on a vector of bounded L2 norm; ``noise_multiplier`` = std / clipping norm, > 0."""

    noise_multiplier: float
    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        require(0 < self.noise_multiplier < math.inf, f"noise_multiplier must be > 0, got {self.noise_multiplier}")


@dataclass(frozen=True)
class LaplaceEvent(Event):
    """Laplace noise; ``noise_multiplier`` = scale / L1 clipping norm, > 0.

    With ``dimension`` 1 the exact pair is used; a vector is accounted by its pure guarantee.
    """

    noise_multiplier: float
    dimension: int = 1
    kind: ClassVar[str] = "laplace"

    def __post_init__(self) -> None:
        require(0 < self.noise_multiplier < math.inf, f"noise_multiplier must be > 0, got {self.noise_multiplier}")
        require(self.dimension >= 1, f"dimension must be >= 1, got {self.dimension}")


@dataclass(frozen=True)
class PureEvent(Event):
    """A pure ``epsilon``-DP release, proved under ``relation``.

    Proved under ``replace_one`` it also holds under ``zero_out_one`` (an empty contribution is an admissible input);
    proved under one of the other two, it holds under that one only.
    """

    epsilon: float
    relation: Relation = "replace_one"
    kind: ClassVar[str] = "pure"
    relation_reason: ClassVar[str] = "a pure guarantee holds only under the relation it was proved for"

    def __post_init__(self) -> None:
        require(0 <= self.epsilon < math.inf, f"epsilon must be >= 0 and finite, got {self.epsilon}")
        require(self.relation in RELATIONS, f"relation must be one of {RELATIONS}, got {self.relation!r}")

    def valid_relations(self) -> tuple[Relation, ...]:
        """The relation of the proof, and ``zero_out_one`` if that was ``replace_one``."""
        return ("zero_out_one", "replace_one") if self.relation == "replace_one" else (self.relation,)


_FIXED: tuple[Relation, ...] = ("zero_out_one", "replace_one")


@dataclass(frozen=True)
class TreeEvent(Event):
    """One participation in one tree of prefix sums: ``height`` nodes of Gaussian noise see the contribution.

    ``noise_multiplier`` = std of one node's noise / clipping norm (Kairouz et al. 2021, DP-FTRL).
    """

    noise_multiplier: float
    height: int
    kind: ClassVar[str] = "tree"
    relations: ClassVar[tuple[Relation, ...]] = _FIXED
    relation_reason: ClassVar[str] = "the step in which a unit takes part must not move when it is absent"

    def __post_init__(self) -> None:
        require(0 < self.noise_multiplier < math.inf, f"noise_multiplier must be > 0, got {self.noise_multiplier}")
        require(self.height >= 1, f"height must be >= 1, got {self.height}")


@dataclass(frozen=True)
class MatrixEvent(Event):
    """A whole run of a matrix mechanism, all participations of a unit together.

    ``noise_multiplier`` = std of the i.i.d. noise Z / clipping norm; ``sensitivity`` = L2 sensitivity of the encoder
    matrix for unit-norm contributions under the enforced participation pattern (see ``correlated``).
    """

    noise_multiplier: float
    sensitivity: float
    kind: ClassVar[str] = "matrix"
    relations: ClassVar[tuple[Relation, ...]] = _FIXED
    relation_reason: ClassVar[str] = "the steps in which a unit takes part must not move when it is absent"

    def __post_init__(self) -> None:
        require(0 < self.noise_multiplier < math.inf, f"noise_multiplier must be > 0, got {self.noise_multiplier}")
        require(0 < self.sensitivity < math.inf, f"sensitivity must be > 0, got {self.sensitivity}")


@dataclass(frozen=True)
class SkellamEvent(Event):
    """Sum of integer Skellam noise under secure aggregation; norms and variance in **real** units.

    Args:
        l1: L1 norm bound of one rounded contribution, divided by ``scale``.
        l2: L2 norm bound of one rounded contribution, divided by ``scale``.
        variance: total variance of the noise that honest survivors added, divided by ``scale`` squared.
        scale: integer steps per real unit.
    """

    l1: float
    l2: float
    variance: float
    scale: float
    kind: ClassVar[str] = "skellam"
    relations: ClassVar[tuple[Relation, ...]] = _FIXED
    relation_reason: ClassVar[str] = "an absent client would also be missing with its share of the noise"

    def __post_init__(self) -> None:
        require(min(self.l1, self.l2, self.variance, self.scale) > 0, f"all numbers must be > 0, got {self}")


@dataclass(frozen=True)
class DiscreteGaussianEvent(Event):
    """Sum of discrete Gaussians of honest survivors under secure aggregation, in **real** units.

    Args:
        l1, l2: norm bounds of one rounded contribution, divided by ``scale``.
        standard_deviation: of one client's noise, divided by ``scale``.
        scale: integer steps per real unit.
        clients: honest contributions that arrived.
        dimension: coordinates.
    """

    l1: float
    l2: float
    standard_deviation: float
    scale: float
    clients: int
    dimension: int
    kind: ClassVar[str] = "discrete_gaussian"
    relations: ClassVar[tuple[Relation, ...]] = _FIXED
    relation_reason: ClassVar[str] = SkellamEvent.relation_reason

    def __post_init__(self) -> None:
        require(min(self.l1, self.l2, self.standard_deviation, self.scale) > 0, f"all numbers must be > 0, got {self}")
        require(self.clients >= 1 and self.dimension >= 1, f"clients and dimension must be >= 1, got {self}")


@dataclass(frozen=True)
class ShuffleEvent(Event):
    """``clients`` messages of one ``local_epsilon``-DP randomiser each, shuffled (amplification by the clones bound).

    ``clients`` counts honest messages that were delivered, the unit's own included. Pure local guarantees only: no
    upper bound is known for shuffled Gaussian noise.
    """

    local_epsilon: float
    clients: int
    kind: ClassVar[str] = "shuffle"
    relations: ClassVar[tuple[Relation, ...]] = _FIXED
    relation_reason: ClassVar[str] = "the number of shuffled messages is public"

    def __post_init__(self) -> None:
        require(0 < self.local_epsilon < math.inf, f"local_epsilon must be > 0, got {self.local_epsilon}")
        require(self.clients >= 1, f"clients must be >= 1, got {self.clients}")


@dataclass(frozen=True)
class ShuffledSumEvent(Event):
    """One shuffled sum by the multi-message protocols P_1D (``dimension`` 1) or P_VEC (Cheu et al. 2022).

    Args:
        clients: honest clients whose messages were delivered.
        dimension: coordinates.
        levels: rounding levels g per coordinate.
        bits: noise bits b per client and coordinate.
        bias: probability p of a one in a noise bit, in (0, 1/2].
    """

    clients: int
    dimension: int
    levels: int
    bits: int
    bias: float
    kind: ClassVar[str] = "shuffled_sum"
    relations: ClassVar[tuple[Relation, ...]] = _FIXED
    relation_reason: ClassVar[str] = "the number of shuffled messages is public"

    def __post_init__(self) -> None:
        require(min(self.clients, self.dimension, self.levels, self.bits) >= 1, f"all counts must be >= 1: {self}")
        require(0 < self.bias <= 0.5, f"bias must be in (0, 0.5], got {self.bias}")


@dataclass(frozen=True)
class NonPrivateEvent(Event):
    """A release nobody paid for: epsilon is infinite from here on. ``reason`` says what it was."""

    reason: str
    kind: ClassVar[str] = "non_private"
