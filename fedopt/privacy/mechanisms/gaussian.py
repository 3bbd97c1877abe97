"""Client-level differential privacy with central Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fedopt.privacy.base import ClientContext, ClientResult, Noise, Release
from fedopt.privacy.mechanisms._multiplier import PerRelease
from fedopt.privacy.mechanisms._parts import add_central_noise, clip, gaussian_event
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.releases import Event


class State(NamedTuple):
    """The mechanism keeps nothing."""


class Gaussian(PerRelease):
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

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip."""
        clipped, metrics = clip(parts, self.clipping_norm)
        return ClientResult(clipped, metrics)

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
        released, std = add_central_noise(reduced, self.multiplier, step, noise)
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": self.multiplier, "noise_std": std}
        return Release(released, (self.event(public),), state, facts)

    def event(self, public: Public) -> Event:
        """One Gaussian."""
        return gaussian_event(self.multiplier)

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "McMahan et al. 2018, Learning Differentially Private Recurrent Language Models, arXiv:1710.06963",
            "Abadi et al. 2016, Deep Learning with Differential Privacy, arXiv:1607.00133",
        )
