"""Client-level differential privacy with central Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from fedopt.privacy.base import ClientContext, ClientResult, Counted, Mechanism, Noise, Release
from fedopt.privacy.mechanisms._parts import add_central_noise, chosen, clip, gaussian_event, norm_bound
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.releases import Event


class State(NamedTuple):
    """The mechanism keeps nothing."""


class Gaussian(Mechanism):
    """Central Gaussian noise on clipped client updates.

    Every reply is scaled to norm at most C = ``clipping_norm`` (all its parts together); the server adds
    ``N(0, (noise_multiplier * bound)^2)`` to every reduced part, where ``bound`` is the L2 bound that the value reports
    about itself (for a mean over m expected clients C / m), before its optimiser sees anything.

    Guarantees: one release is one Gaussian of ``noise_multiplier`` for a client that contributes once, whatever the
    weights. With multiplier 0 and an infinite clipping norm every value keeps its bits (and epsilon is infinite).
    A release without survivors is noise only.

    Raises: ValueError where a value declares no bound.

    References: McMahan et al. 2018, Learning Differentially Private Recurrent Language Models, arXiv:1710.06963,
    Algorithm 1 (fixed denominator); Abadi et al. 2016, arXiv:1607.00133.

    Differences from the paper: one clipping norm over all parts of a reply ("flat"), no per-layer split.
    """

    clipping_norm: float = Field(1.0, gt=0, description="largest L2 norm C of one client's contribution")
    noise_multiplier: float | None = Field(
        None, ge=0, description="noise std over clipping norm; null calibrates it to privacy.target_epsilon"
    )

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip."""
        clipped, metrics = clip(parts, self.clipping_norm)
        return ClientResult(clipped, metrics)

    def bound(self, part: str, state: State, public: Public) -> Bound:
        """C, for all parts together."""
        return norm_bound(self.clipping_norm, public)

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Add noise to every part."""
        multiplier = chosen(self.noise_multiplier)
        released, std = add_central_noise(reduced, multiplier, step, noise)
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": multiplier, "noise_std": std}
        return Release(released, (gaussian_event(multiplier),), state, facts)

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """One Gaussian."""
        return (gaussian_event(chosen(self.noise_multiplier)),)

    def noise_level(self) -> float | None:
        """The noise multiplier."""
        return self.noise_multiplier

    def with_noise_level(self, level: float, releases: int, scenario: Any) -> Gaussian:
        """Another noise multiplier."""
        return self.model_copy(update={"noise_multiplier": level})

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """One Gaussian per participation."""
        return ((gaussian_event(chosen(self.noise_multiplier)), participations),)

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "McMahan et al. 2018, Learning Differentially Private Recurrent Language Models, arXiv:1710.06963",
            "Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv:1607.00133",
        )
