"""Mechanisms: what happens on the client before anything leaves it, and what the server adds before release."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fedopt.components import Settings
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch


class Noise(Protocol):
    """Source of randomness for privacy: named seeded streams in simulation, the operating system when deployed."""

    def generator(self, device: Any, *ids: int) -> torch.Generator:
        """A fresh generator for one draw, named by integers (step, part, client, task ...)."""
        ...


class ClientContext(NamedTuple):
    """Where ``on_client`` stands.

    Args:
        clients, tasks: ids per row.
        step: server step being collected.
        noise: source of client-side randomness.
        public: public constants.
    """

    clients: tuple[int, ...]
    tasks: tuple[int, ...]
    step: int
    noise: Noise
    public: Public


class ClientResult(NamedTuple):
    """Result of ``on_client``: transformed parts, the bound each row now obeys, and simulator-only metrics per row."""

    parts: Mapping[str, UpdateBatch]
    bounds: Mapping[str, Bound]
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


class Mechanism(Settings):
    """Base of mechanisms. States are NamedTuples of tensors and numbers (they are checkpointed)."""

    @abstractmethod
    def init(self, dimension: int, public: Public) -> Any:
        """State before the first release."""

    @abstractmethod
    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: Any) -> ClientResult:
        """Clip and, under local, distributed and shuffle trust, randomise, before anything leaves the client."""

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

    def references(self) -> tuple[str, ...]:
        """Sources, for the report."""
        return ()
