"""The ground floor: the words of the protocol as types. No torch at import.

Internally an *update* is end minus start: the model moves along it. Tensors are flat float32 vectors; only models
see dictionaries of parameters. Times are integer ticks (``ticks_per_second`` belongs to the run), so that equal
times are equal and ceilings are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fedopt.engine.base import UpdateBatch

Ticks = int

ReplyStatus = Literal["admitted", "held", "rejected", "lost", "failed", "duplicate"]


@dataclass(frozen=True)
class Task:
    """What is learned, independent of the data set's name.

    Args:
        kind: classification, regression, next_token or black_box (values of a function only).
        input_shape: shape of one example without the batch axis; images are (channels, height, width),
            text is (sequence,) of token ids; for black_box the shape of the point.
        num_outputs: classes, regression outputs, or vocabulary size.
    """

    kind: Literal["classification", "regression", "next_token", "black_box"]
    input_shape: tuple[int, ...]
    num_outputs: int


@dataclass(frozen=True)
class ParamSpec:
    """Names the pieces of a flat parameter vector: ``names[i]`` has ``shapes[i]``, in this order.

    >>> spec = ParamSpec(("w", "b"), ((2, 3), (2,)))
    >>> spec.size, spec.offsets
    (8, (0, 6, 8))
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """Start of every piece, and the total size at the end."""
        ends = [0]
        for shape in self.shapes:
            count = 1
            for extent in shape:
                count *= extent
            ends.append(ends[-1] + count)
        return tuple(ends)

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return self.offsets[-1]

    def unflatten(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a flat vector ``[..., d]`` as named pieces ``[..., *shape]``."""
        ends = self.offsets
        return {
            name: flat[..., ends[i] : ends[i + 1]].reshape(*flat.shape[:-1], *self.shapes[i])
            for i, name in enumerate(self.names)
        }


class Bound(NamedTuple):
    """How far one privacy unit can move a reduced value, in the named norms. ``inf`` = unbounded."""

    l2: float
    l1: float = float("inf")
    linf: float = float("inf")


@dataclass(frozen=True)
class Message:
    """What is sent to a client: named tensors, public settings, and the exact bytes on the wire.

    Args:
        parts: name -> tensor, immutable by convention; shared between clients where equal.
        config: public numbers a client needs (``local_steps``, ``version`` ...).
        num_bytes: bytes sent down for this message.
    """

    parts: Mapping[str, torch.Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    num_bytes: int = 0


class AllArrived(NamedTuple):
    """The exchange closes when every member of the cohort has replied or is lost."""


class Count(NamedTuple):
    """The exchange closes after ``k`` admitted replies; with ``cancel`` the rest of the cohort is dropped."""

    k: int
    cancel: bool = False


class Every(NamedTuple):
    """The exchange closes at every multiple of ``seconds`` (virtual), with whatever has arrived, also nothing."""

    seconds: Any  # float or Fraction > 0


class Deadline(NamedTuple):
    """The exchange closes when all have replied or ``seconds`` after it opened; who is at work after that is lost.

    ``k`` closes it at the k-th admitted reply already (over-selection).
    """

    seconds: Any
    k: int | None = None


Close = AllArrived | Count | Every | Deadline


class Exchange(NamedTuple):
    """One request-reply pattern of a method.

    Args:
        phase: name written to the run log.
        cohort: ``new`` asks the sampler, ``same`` uses the clients of the previous exchange.
        close: when the collected replies become a server step.
        pacing: ``round`` starts a cohort and starts nobody until the step; ``stream`` keeps the sampler's
            concurrency in flight.
        dispatch: ``per_instant`` processes all simultaneous uploads before anyone restarts; ``per_upload`` does not.
        restart: in ``stream``: a client's slot is refilled ``immediately`` after its upload, or only ``at_step``.
    """

    phase: str = "train"
    cohort: Literal["new", "same"] = "new"
    close: Close = AllArrived()
    pacing: Literal["round", "stream"] = "round"
    dispatch: Literal["per_instant", "per_upload"] = "per_instant"
    restart: Literal["immediately", "at_step"] = "immediately"


class ReplyMeta(NamedTuple):
    """What is known of a reply without looking at its values."""

    dispatch_id: int
    client: int
    version: int  # server version the client started from
    staleness: int  # server steps since then, when it arrived
    num_examples: int
    local_steps: int
    normalizer: float  # FedNova's |a_i|_1: how far a constant unit gradient would have moved it, over lr
    task: int  # how many tasks this client was given before
    contributions: int = 0  # used replies of this client before this one, those that wait included
    gap: int = 0  # server steps since this client's previous contribution (version + 1 if none)


class ReplyBatch(Protocol):
    """Admitted replies as seen by ``Method.reduce``: linear objects, never a list of dicts.

    Attributes:
        metas: one per reply, in reduction order (ascending client, then dispatch).
        weights: what ``admit`` returned, per reply.
    """

    @property
    def metas(self) -> tuple[ReplyMeta, ...]:
        """Metadata of every surviving reply."""
        ...

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of every surviving reply, as admitted."""
        ...

    def part(self, name: str = "update") -> UpdateBatch:
        """The named part of every reply as a batch."""
        ...

    def bound(self, name: str = "update") -> Bound:
        """Norm bound of one client's contribution to that part, before its weight; ``inf`` if not clipped."""
        ...


@dataclass(frozen=True)
class Public:
    """What everybody may know, so that a method may use it without a privacy cost.

    Args:
        num_clients: population size N.
        expected_cohort: expected number of replies per step (a public constant).
        is_private: whether a privacy mechanism is set.
        num_examples: n_i ``[num_clients]`` if declared public (or no privacy), else None.
        seconds_per_task: expected duration of client i's task, if the device model knows it and every task ends in a
            reply (no dropout, always available, full work), else None. Fraction or
            int entries say that the duration is fixed and exactly this; floats are means of random durations.
        expected_ceil: dt -> ``E[ceil(T_i / dt)]`` of every client, ``sum_{k>=0} P(T_i > k dt)``, if the device model
            knows it, else None; not needed where ``seconds_per_task`` is exact.
        concurrency: clients a stream keeps in flight, if pacing is a stream, else None.
        horizon: planned number of server steps, if there is one.
        dimension: number of parameters, once there is a model.
        seconds_for_equal_work: expected duration of client i's task if everybody had the same work, or None.
    """

    num_clients: int
    expected_cohort: float
    is_private: bool = False
    num_examples: np.ndarray | None = None
    seconds_per_task: Any = None  # sequence of Fraction or float
    horizon: int | None = None
    seed: int = 0
    expected_ceil: Callable[[Fraction], Sequence[float]] | None = None
    concurrency: int | None = None
    dimension: int | None = None
    seconds_for_equal_work: Any = None  # sequence of Fraction or float

    def closed_by(self, close: Close) -> Public:
        """The same constants under a close rule: where a step takes a fixed number of replies, it expects that many."""
        return replace(self, expected_cohort=float(close.k)) if isinstance(close, Count) else self
