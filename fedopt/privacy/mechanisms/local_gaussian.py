"""Local differential privacy with Gaussian noise: nobody is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fedopt.privacy.base import ClientContext, ClientResult, Noise, Release
from fedopt.privacy.mechanisms._multiplier import PerRelease
from fedopt.privacy.mechanisms._noisy import NoisyUpdates
from fedopt.privacy.mechanisms._parts import CLIENT, clip, gaussian_event, noise_std, part_dimension
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.releases import Event


class State(NamedTuple):
    """The mechanism keeps nothing."""


class LocalGaussian(PerRelease):
    """Every client clips its reply and adds Gaussian noise before anything leaves it.

    The noise has std ``noise_multiplier * 2 C`` per coordinate of every part, C = ``clipping_norm``: local privacy
    compares any two inputs, which are up to 2C apart, so the sensitivity is tied to the clipping norm by construction.

    Guarantees: every reply is one Gaussian of multiplier ``noise_multiplier`` between any two inputs (relation
    replace_one; twice that under zero_out_one). Any aggregator may use the replies: what it does is post-processing.
    A client pays for every reply that arrives, used or not.

    References: Kasiviswanathan et al. 2011, What Can We Learn Privately?; Balle and Wang 2018, arXiv:1805.06530.
    """

    trusts = ("local",)
    paid_on_arrival = True

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip and add noise."""
        clipped, metrics = clip(parts, self.clipping_norm)
        std = noise_std(2 * self.multiplier, Bound(self.clipping_norm))
        if std == 0.0:
            return ClientResult(clipped, metrics)
        stds = (std,) * len(context.clients)
        noisy: dict[str, UpdateBatch] = {}
        for index, (name, batch) in enumerate(clipped.items()):
            ids = tuple((CLIENT, context.step, index, *who) for who in zip(context.clients, context.tasks, strict=True))
            noisy[name] = NoisyUpdates(batch, stds, ids, context.noise, part_dimension(batch))
        return ClientResult(noisy, metrics)

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Nothing to add: the replies are private already. ``noise_std`` is that of one reply."""
        std = noise_std(2 * self.multiplier, Bound(self.clipping_norm))
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": self.multiplier, "noise_std": std}
        return Release({name: value for name, (value, _) in reduced.items()}, (self.event(public),), state, facts)

    def event(self, public: Public) -> Event:
        """One Gaussian of std 2 z C."""
        return gaussian_event(2 * self.multiplier)

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Kasiviswanathan et al. 2011, What Can We Learn Privately?, SIAM J. Comput. 40(3)",)
