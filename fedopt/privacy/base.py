"""Mechanisms: what happens on the client before anything leaves it, and what the server adds before release."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from fedopt.components import Settings
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import ExampleClipping, UpdateBatch
    from fedopt.privacy.releases import Event

Counted = tuple[tuple["Event", int], ...]  # events with how often each happens to one unit


class NeedsDimension(ValueError):
    """The noise depends on the number of parameters, which only a model knows."""


class Draws(Protocol):
    """One stream of randomness; every call goes on where the last one stopped."""

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Standard normals (float32 unless said)."""
        ...

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Uniform in [0, 1)."""
        ...

    def exponential(self, shape: Sequence[int]) -> torch.Tensor:
        """Exponentials of mean 1, float64."""
        ...

    def poisson(self, rate: float, shape: Sequence[int]) -> torch.Tensor:
        """Poisson counts, int64."""
        ...

    def binomial(self, trials: int, probability: float, shape: Sequence[int]) -> torch.Tensor:
        """Numbers of successes, int64."""
        ...


class Noise(Protocol):
    """Source of randomness for privacy: ``SimulatedNoise`` in simulation, ``SystemNoise`` when deployed.

    The same names give the same stream within one object.
    """

    def draws(self, device: Any, *ids: int) -> Draws:
        """The stream of one draw, named by integers (step, part, client, task ...)."""
        ...

    def example_draws(self, device: Any, purpose: str, client: int, task: int) -> Draws:
        """The stream of the noise inside one client's training (DP-SGD)."""
        ...


class ClientContext(NamedTuple):
    """Where ``on_client`` stands.

    Args:
        clients, tasks: ids per row.
        step: server step being collected.
        noise: source of client-side randomness.
        public: public constants.
        weights: weight of each row in the step, as admitted.
    """

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    step: int
    noise: Noise
    public: Public
    weights: tuple[float, ...] = ()


class ClientResult(NamedTuple):
    """Result of ``on_client``: parts that now obey ``Mechanism.bound``, and simulator-only metrics per row."""

    parts: Mapping[str, UpdateBatch]
    metrics: Mapping[str, torch.Tensor]  # norm (before clipping), clipped (0/1)


class Release(NamedTuple):
    """Result of ``release``.

    Args:
        values: what the server optimiser may see, per part.
        events: accounting events of this release (``fedopt.privacy.events``), in a ledger's order.
        state: new mechanism state.
        facts: public numbers for the run log: clipping_norm, noise_multiplier, noise_std.
    """

    values: dict[str, torch.Tensor]
    events: tuple[Any, ...]
    state: Any
    facts: dict[str, float]


@dataclass
class Tally:
    """What an accountant needs of a run so far: plain data, part of the server's state.

    Args:
        events: distinct events of the releases (one tuple per kind of release).
        releases: how many releases had each of them.
        participations: client -> how many of these releases it was part of.
        most: largest number of participations of any client, per entry of ``events``.
        local_steps: client -> local steps whose result reached the server (ledgers kept by clients).
    """

    events: list[tuple[Any, ...]] = field(default_factory=list)
    releases: list[int] = field(default_factory=list)
    participations: list[dict[int, int]] = field(default_factory=list)
    most: list[int] = field(default_factory=list)
    local_steps: dict[int, int] = field(default_factory=dict)

    def record(self, events: tuple[Any, ...], clients: Iterable[int]) -> None:
        """One release and the clients whose contributions went into it."""
        if not events:
            return
        if events not in self.events:
            self.events.append(events)
            self.releases.append(0)
            self.participations.append({})
            self.most.append(0)
        i = self.events.index(events)
        self.releases[i] += 1
        counts = self.participations[i]
        for client in clients:
            counts[client] = counts.get(client, 0) + 1
            self.most[i] = max(self.most[i], counts[client])


class Mechanism(Settings):
    """Base of mechanisms. States are NamedTuples of tensors and numbers (they are checkpointed).

    Class facts: ``trusts`` and ``units`` the mechanism is valid for; ``anonymous`` replies carry no client ids;
    ``unit_weights`` every reply must count with weight 1; ``client_ledgers`` the guarantee is paid for inside clients'
    training; ``own_parts`` names of parts that ``on_client`` adds for the mechanism itself: their plain means over the
    expected cohort come to ``release`` and never reach the aggregator; ``paid_on_arrival`` the server sees single
    replies, so a client pays for every reply that arrives, used or not; ``unused_is_paid`` releases are paid for as
    a whole, and replies that reach none are paid for besides; ``noise_settings`` names of the settings that calibration
    decides.
    """

    trusts: ClassVar[tuple[str, ...]] = ("central",)
    units: ClassVar[tuple[str, ...]] = ("client",)
    anonymous: ClassVar[bool] = False
    unit_weights: ClassVar[bool] = False
    client_ledgers: ClassVar[bool] = False
    own_parts: ClassVar[tuple[str, ...]] = ()
    paid_on_arrival: ClassVar[bool] = False
    noise_settings: ClassVar[tuple[str, ...]] = ("noise_multiplier",)

    @property
    def unused_is_paid(self) -> bool:
        """Whether a reply that no release uses was seen all the same."""
        return False

    def prepared(self, scenario: Any, public: Public) -> Mechanism:
        """The mechanism with what it must know of the run (schedule, dimension); itself if that is nothing."""
        return self

    @abstractmethod
    def init(self, dimension: int, public: Public) -> Any:
        """State before the first release."""

    @abstractmethod
    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: Any) -> ClientResult:
        """Clip and, under local, distributed and shuffle trust, randomise, before anything leaves the client."""

    @abstractmethod
    def bound(self, part: str, state: Any, public: Public) -> Bound:
        """Bound of one client's contribution to a part after ``on_client``; also asked when nobody contributed."""

    @abstractmethod
    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: Any,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Add central noise (or decode), calibrated from the bound each value reports about itself.

        Raises:
            ValueError: a value declares no bound, so it cannot be released; says what to use instead.
        """

    @abstractmethod
    def next_events(self, state: Any, public: Public) -> tuple[Any, ...]:
        """Events the next release will cost, known before it happens, for the stop at ``max_epsilon``."""

    def reply_events(self, state: Any, public: Public) -> tuple[Any, ...]:
        """Events that one reply costs at most, whichever release it was made for; those of the next one unless said."""
        return self.next_events(state, public)

    def task_events(self, config: Mapping[str, Any], public: Public) -> tuple[Any, ...]:
        """Events that a client pays for one task, from what its message asks for; the costliest unless said."""
        return self.reply_events(self.init(public.dimension or 1, public), public)

    @abstractmethod
    def noise_level(self) -> float | None:
        """How much noise is set, in the units of ``with_noise_level``; None asks for calibration."""

    @abstractmethod
    def with_noise_level(self, level: float, releases: int, scenario: Any) -> Mechanism:
        """The same mechanism with another amount of noise: a larger ``level`` > 0 never costs more privacy.

        Args:
            level: usually the noise multiplier.
            releases: planned releases of the run.
            scenario: the scenario; the aggregator's schedule may split the budget.
        """

    @abstractmethod
    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """Events one unit pays for over a planned run, with their counts, without any training.

        Args:
            releases: planned releases of the run.
            participations: how many of them one client can be part of.
            public: public constants; ``dimension`` may be None before a model exists.
            scenario: the scenario; aggregator or client work may decide which event comes when.
        """

    def example_clipping(self) -> ExampleClipping | None:
        """What local training must do to every example's gradient, or None if the mechanism protects whole replies."""
        return None

    def reply_bytes(self, dimension: int, plain_bytes: int) -> int:
        """Bytes of a protected reply on the wire; those of the plain one unless the mechanism encodes."""
        return plain_bytes

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """Why this mechanism cannot protect this scenario, each with a remedy; empty if it can."""
        return ()

    def references(self) -> tuple[str, ...]:
        """Sources, for the report."""
        return ()


def own_mean(batch: Any, part: str, bound: Bound, like: torch.Tensor, public: Public) -> tuple[torch.Tensor, Bound]:
    """Sum of a mechanism's own one-number part over the replies, each with weight 1, over the expected cohort ``[1]``.

    Args:
        batch: the replies.
        part: its name.
        bound: of one contribution.
        like: a tensor on the right device.
        public: public constants.
    """
    import torch

    total = like.new_zeros(1)
    if batch.metas:
        total = batch.part(part).weighted_sum(torch.ones(len(batch.metas), dtype=torch.float64))
    m = public.expected_cohort
    return total / m, Bound(bound.l2 / m, bound.l1 / m, bound.linf / m)
