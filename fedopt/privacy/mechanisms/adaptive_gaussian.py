"""Client-level Gaussian noise with a clipping norm that follows a quantile of the update norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import Field, PrivateAttr

from fedopt.privacy.base import ClientContext, ClientResult, Counted, Mechanism, Noise, Release
from fedopt.privacy.mechanisms._parts import (
    SERVER,
    add_central_noise,
    chosen,
    clip,
    gaussian_event,
    norm_bound,
    normal,
)
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.releases import Event

INDICATOR = "within_clipping_norm"
HALF = 0.5  # centred indicators have sensitivity 1/2
INDICATOR_DRAW = 1_000_003  # part id of its noise, away from those of the aggregator's parts


class State(NamedTuple):
    """The clipping norm in force."""

    clipping_norm: float


class AdaptiveGaussian(Mechanism):
    """Central Gaussian noise whose clipping norm tracks a quantile of the clients' update norms.

    With b_k = 1 if client k's norm is at most C (else 0), m expected replies, total multiplier z and count noise
    sigma_b, the clients send their clipped reply and ``b_k - 1/2``, the server releases::

        mean + N(0, (sigma_u * bound)^2),  sigma_u = (z^-2 - (2 sigma_b)^-2)^(-1/2)
        b = 1/2 + (1/m) (sum_k (b_k - 1/2) + N(0, sigma_b^2));   C <- C * exp(-rate * (clip(b, 0, 1) - quantile))

    Guarantees: one release of both costs exactly one Gaussian of multiplier z, since
    ``1/sigma_u^2 + (1/2)^2/sigma_b^2 = 1/z^2``; under zero_out_one an empty contribution moves the count by 1, which
    takes the place of 1/2. The denominator m is a public constant. Nobody's norm is released.

    References: Andrew, Thakkar, McMahan, Ramaswamy 2021, Differentially Private Learning with Adaptive Clipping,
    Algorithm 1, arXiv:1905.03871.

    Differences from the paper: where sigma_b = m / 20 would leave no room (2 sigma_b <= z), sigma_b = z is taken.
    """

    initial_clipping_norm: float = Field(0.1, gt=0, description="clipping norm C before the first release")
    noise_multiplier: float | None = Field(
        None, ge=0, description="multiplier z of a whole release; null calibrates it to privacy.target_epsilon"
    )
    quantile: float = Field(0.5, gt=0, lt=1, description="share of replies to leave unclipped")
    clipping_rate: float = Field(0.2, ge=0, description="step of the clipping norm, in powers of e per release")
    count_noise: float | None = Field(
        None,
        gt=0,
        description="std sigma_b of the noise on the count; null: a twentieth of the expected cohort, at least z",
    )

    own_parts = (INDICATOR,)
    _moved: float = PrivateAttr(HALF)

    def prepared(self, scenario: Any, public: Public) -> AdaptiveGaussian:
        """Learn the relation: an empty contribution sends +1/2 where a clipped one sends -1/2."""
        made = self.model_copy()
        made._moved = 1.0 if scenario.privacy.relation == "zero_out_one" else HALF
        return made

    def init(self, dimension: int, public: Public) -> State:
        """Start from the initial clipping norm."""
        return State(self.initial_clipping_norm)

    def bound(self, part: str, state: State, public: Public) -> Bound:
        """C, or 1/2 for the centred indicator."""
        return Bound(HALF, HALF, HALF) if part == INDICATOR else norm_bound(state.clipping_norm, public)

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip, and say whether that was needed."""
        from fedopt.engine.base import DenseUpdates

        clipped, metrics = clip(parts, state.clipping_norm)
        indicator = DenseUpdates((HALF - metrics["clipped"])[:, None].float())
        return ClientResult({**clipped, INDICATOR: indicator}, metrics)

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Add noise to update and count; move the clipping norm."""
        multiplier, count_noise = self._multiplier(), self.count_std(public)
        values = {name: value for name, value in reduced.items() if name != INDICATOR}
        released, std = add_central_noise(values, self.update_multiplier(public), step, noise)
        count = reduced[INDICATOR][0]
        count_std = count_noise / public.expected_cohort if multiplier > 0 else 0.0
        unclipped = HALF + float(count + normal(noise, count, count_std, SERVER, step, INDICATOR_DRAW))
        moved = math.exp(-self.clipping_rate * (min(max(unclipped, 0.0), 1.0) - self.quantile))
        facts = {"clipping_norm": state.clipping_norm, "noise_multiplier": multiplier, "noise_std": std}
        return Release(released, (gaussian_event(multiplier),), State(state.clipping_norm * moved), facts)

    def _multiplier(self) -> float:
        return chosen(self.noise_multiplier)

    def count_std(self, public: Public) -> float:
        """sigma_b, std of the noise on the sum of indicators.

        Raises:
            ValueError: the given count noise leaves no noise for the update.
        """
        z = self._multiplier()
        if self.count_noise is None:
            return max(public.expected_cohort / 20, 2 * self._moved * z)  # the update must not drown
        if self.count_noise <= self._moved * z:
            raise ValueError(
                f"count_noise must be > {self._moved:g} noise_multiplier = {self._moved * z:g}, "
                f"got {self.count_noise:g}"
            )
        return self.count_noise

    def update_multiplier(self, public: Public) -> float:
        """sigma_u, noise std of the update over its bound."""
        z = self._multiplier()
        if z == 0.0:
            return 0.0
        return (z**-2 - (self._moved / self.count_std(public)) ** 2) ** -0.5

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """One Gaussian."""
        return (gaussian_event(self._multiplier()),)

    def noise_level(self) -> float | None:
        """The noise multiplier."""
        return self.noise_multiplier

    def with_noise_level(self, level: float, releases: int, scenario: Any) -> Self:
        """Another noise multiplier."""
        return self.model_copy(update={"noise_multiplier": level})

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """One Gaussian per participation."""
        return ((gaussian_event(self._multiplier()), participations),)

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, arXiv:1905.03871",)
