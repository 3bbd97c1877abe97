"""What mechanisms with a clipping norm and a noise multiplier share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from fedopt.privacy.base import Counted, Mechanism
from fedopt.privacy.mechanisms._parts import chosen, norm_bound
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    from fedopt.privacy.releases import Event


class WithMultiplier(Mechanism):
    """Abstract: one clipping norm, one noise multiplier."""

    clipping_norm: float = Field(1.0, gt=0, description="largest norm C of one client's contribution")
    noise_multiplier: float | None = Field(
        None, ge=0, description="noise std over clipping norm; null calibrates it to privacy.target_epsilon"
    )

    def noise_level(self) -> float | None:
        """The noise multiplier."""
        return self.noise_multiplier

    def with_noise_level(self, level: float, releases: int, scenario: Any) -> Self:
        """Another noise multiplier."""
        return self.model_copy(update={"noise_multiplier": level})

    @property
    def multiplier(self) -> float:
        """The noise multiplier of a mechanism that runs."""
        return chosen(self.noise_multiplier)


class PerRelease(WithMultiplier):
    """Abstract: every participation costs the same event; parts together have norm at most C."""

    @abstractmethod
    def event(self, public: Public) -> Event:
        """What one participation costs at most."""

    def bound(self, part: str, state: Any, public: Public) -> Bound:
        """C, for all parts together."""
        return norm_bound(self.clipping_norm, public)

    def next_events(self, state: Any, public: Public) -> tuple[Event, ...]:
        """One participation."""
        return (self.event(public),)

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """One event per participation."""
        return ((self.event(public), participations),)
