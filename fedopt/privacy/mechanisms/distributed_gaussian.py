"""Gaussian noise in shares: every client adds a little, the server sees the sum only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from fedopt.privacy.base import ClientContext, ClientResult, Noise, Release
from fedopt.privacy.mechanisms._multiplier import PerRelease
from fedopt.privacy.mechanisms._noisy import NoisyUpdates
from fedopt.privacy.mechanisms._parts import (
    CLIENT,
    clip,
    gaussian_event,
    noise_std,
    part_dimension,
    require_bound,
    require_unit_weights,
    withheld,
)
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.releases import Event


class State(NamedTuple):
    """The mechanism keeps nothing."""


class DistributedGaussian(PerRelease):
    """Every client adds a share of the Gaussian noise; secure aggregation shows the server the sum.

    Each reply, clipped to norm C, gets ``N(0, (noise_multiplier * C)^2 / h)``, h = ``minimum_survivors``. With m >= h
    survivors the sum carries multiplier ``noise_multiplier * sqrt(m / h)``, and that is what is charged.

    Guarantees: the sum of h shares has the std of central noise. With fewer than h survivors the sum is not opened:
    nothing is released and nothing is charged. Replies must have weight 1, or shares and sensitivity would differ.

    h counts honest survivors: clients that collude with the server can subtract their own shares.

    References: Dwork et al. 2006, Our Data, Ourselves: Privacy via Distributed Noise Generation; Bonawitz et al. 2017,
    Practical Secure Aggregation.

    Differences from the papers: noise in floating point; see skellam for integers.
    """

    minimum_survivors: int = Field(1, ge=1, description="honest replies h that a sum needs, clients")

    trusts = ("distributed",)
    unit_weights = True

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def share_std(self) -> float:
        """Noise std of one reply."""
        return noise_std(self.multiplier, Bound(self.clipping_norm)) / math.sqrt(self.minimum_survivors)

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip and add a share."""
        require_unit_weights(context, "distributed_gaussian")
        clipped, metrics = clip(parts, self.clipping_norm)
        if self.share_std() == 0.0:
            return ClientResult(clipped, metrics)
        stds = (self.share_std(),) * len(context.clients)
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
        """Open the sum if enough replies arrived."""
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": self.multiplier, "noise_std": 0.0}
        if survivors < self.minimum_survivors:
            size = next(iter(reduced.values()))[0].numel()
            return Release(withheld(reduced, size), (), state, facts)
        bound = require_bound(*next((name, bound) for name, (_, bound) in reduced.items()))
        multiplier = self.multiplier * math.sqrt(survivors / self.minimum_survivors)
        facts |= {"noise_multiplier": multiplier, "noise_std": noise_std(multiplier, bound)}
        values = {name: value for name, (value, _) in reduced.items()}
        return Release(values, (gaussian_event(multiplier),), state, facts)

    def event(self, public: Public) -> Event:
        """One Gaussian with the fewest survivors."""
        return gaussian_event(self.multiplier)

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Dwork et al. 2006, Our Data, Ourselves: Privacy via Distributed Noise Generation",
            "Bonawitz et al. 2017, Practical Secure Aggregation for Privacy-Preserving Machine Learning",
        )
