"""Integer noise in shares under (simulated) secure aggregation: the distributed Skellam mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, PrivateAttr

from fedopt.privacy.base import ClientContext, ClientResult, Counted, NeedsDimension, Noise, Release
from fedopt.privacy.mechanisms._integers import (
    IntegerUpdates,
    padded,
    rotate,
    round_within,
    rounded_norm,
    unrotate,
)
from fedopt.privacy.mechanisms._multiplier import WithMultiplier
from fedopt.privacy.mechanisms._parts import CLIENT, clip, one_update, require_bound, require_unit_weights, withheld
from fedopt.privacy.releases import Event, NonPrivateEvent, SkellamEvent
from fedopt.rng import generator
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.base import Draws


class State(NamedTuple):
    """The mechanism keeps nothing."""


class Skellam(WithMultiplier):
    """Clients send integers with Skellam noise; the server sees their sum modulo 2^bits.

    Per reply: clip to norm C; pad to D = 2^k coordinates and rotate (public random signs, Hadamard); multiply by the
    scale s; round stochastically until the norm is at most ``rounded_norm``; add ``Poisson(v/2) - Poisson(v/2)`` per
    coordinate with ``v = (noise_multiplier * C * s)^2 / minimum_survivors``; reduce modulo 2^bits. The server adds up,
    unwraps to signed integers, and undoes scale and rotation.

    Guarantees: sums of Skellams are Skellam exactly, so the event carries the true noise of the survivors. Integers
    below 2^53 are exact in float64. Unless a coordinate of the sum leaves [-2^(bits-1), 2^(bits-1)) it is recovered
    exactly, and the estimate is unbiased up to the conditioning of the rounding. Below ``minimum_survivors`` the sum
    is not opened.

    References: Agarwal, Kairouz, Liu 2021, The Skellam Mechanism for Differentially Private Federated Learning,
    arXiv:2110.04995; Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Algorithms 1-2 (encoding).

    Differences from the papers: secure aggregation is simulated by a modular sum; masks are not drawn.
    """

    bits: int = Field(20, ge=4, le=40, description="bits per coordinate on the wire; the modulus is 2^bits")
    scale: float | None = Field(
        None,
        gt=0,
        description="integer steps per unit of the update; null fills the modulus to four standard deviations",
    )
    minimum_survivors: int = Field(1, ge=1, description="honest replies that a sum needs, clients")
    rounding_share: float = Field(
        math.exp(-0.5), gt=0, lt=1, description="beta: probability that a rounding is redrawn, at most about this"
    )

    trusts = ("distributed",)
    unit_weights = True
    _cohort: float = PrivateAttr(0.0)
    _dimension: int | None = PrivateAttr(None)

    def prepared(self, scenario: Any, public: Public) -> Skellam:
        """Learn dimension and expected cohort, which decide the scale."""
        made = self.model_copy()
        made._cohort, made._dimension = public.expected_cohort, public.dimension
        return made

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """Replies must be one vector of the model's size."""
        return one_update(scenario, "skellam")

    @property
    def size(self) -> int:
        """Coordinates after padding.

        Raises:
            NeedsDimension: there is no model yet.
        """
        if self._dimension is None:
            raise NeedsDimension("skellam's noise depends on the number of parameters, which needs the model")
        return padded(self._dimension)

    def steps_per_unit(self) -> float:
        """The scale s: given, or as large as the modulus allows.

        ``2^bits = 2 k s sqrt((C^2 m^2 / D) + (1/(4 s^2) + sigma^2) m)`` with k = 4 and sigma the noise of one reply.

        Raises:
            ValueError: the modulus is too small for this cohort.
        """
        if self.scale is not None:
            return self.scale
        m, share = max(1.0, self._cohort), self.multiplier * self.clipping_norm / math.sqrt(self.minimum_survivors)
        room = (2.0**self.bits / 8) ** 2 - m / 4
        if room <= 0:
            raise ValueError(f"bits = {self.bits} cannot hold a sum of {m:g} clients; raise it")
        return math.sqrt(room / (self.clipping_norm**2 * m * m / self.size + share**2 * m))

    def integer_limit(self) -> float:
        """Norm bound of one rounded reply, in integer units."""
        return rounded_norm(self.clipping_norm * self.steps_per_unit(), self.size, self.rounding_share)

    def share_variance(self) -> float:
        """Variance v of one reply's noise per coordinate, in integer units."""
        return (self.multiplier * self.clipping_norm * self.steps_per_unit()) ** 2 / self.minimum_survivors

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def bound(self, part: str, state: Any, public: Public) -> Bound:
        """Norms of a rounded reply, in units of the update."""
        l2 = self.integer_limit()
        l1 = l2 * min(math.sqrt(self.size), l2)
        s = self.steps_per_unit()
        return Bound(l2 / s, l1 / s, l2 / s)

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip, rotate, round, add integer noise, reduce.

        Raises:
            ValueError: replies of several parts.
        """
        import torch

        require_unit_weights(context, "skellam")
        if len(parts) != 1:
            raise ValueError(f"skellam sums one part per reply, got {sorted(parts)}; use distributed_gaussian")
        clipped, metrics = clip(parts, self.clipping_norm)
        (name, batch) = next(iter(clipped.items()))
        rows = batch.rows().double()
        wide = torch.nn.functional.pad(rows, (0, self.size - rows.shape[1]))
        turned = rotate(wide, self._signs(context.step, context.public, rows)) * self.steps_per_unit()
        made = []
        for row, who in zip(turned, zip(context.clients, context.tasks, strict=True), strict=True):
            draw = context.noise.draws(rows.device, CLIENT, context.step, 0, *who)
            whole = round_within(row, self.integer_limit(), draw)
            made.append((whole + _skellam(self.share_variance(), row, draw)) % 2**self.bits)
        return ClientResult({name: IntegerUpdates(torch.stack(made), 2**self.bits)}, metrics)

    def _signs(self, step: int, public: Public, like: torch.Tensor) -> torch.Tensor:
        """Public random signs ``[D]`` of this step: they spread, they do not hide."""
        import torch

        signs = generator(public.seed, "secure_aggregation_signs", step).integers(0, 2, self.size) * 2 - 1
        return torch.from_numpy(signs).to(like.device, torch.float64)

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Open the sum if enough replies arrived: unwrap, undo scale and rotation."""
        import torch

        assert public.dimension is not None
        (name, (value, declared)) = next(iter(reduced.items()))
        bound = require_bound(name, declared)
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": self.multiplier, "noise_std": 0.0}
        if survivors < self.minimum_survivors:
            return Release(withheld(reduced, public.dimension), (), state, facts)
        factor = bound.l2 / self.bound(name, state, public).l2  # 1 / the denominator of the mean
        total = (value.double() / factor).round().long() % 2**self.bits
        signed = torch.where(total >= 2 ** (self.bits - 1), total - 2**self.bits, total).double()
        opened = unrotate(signed / self.steps_per_unit(), self._signs(step, public, value))
        multiplier = self.multiplier * math.sqrt(survivors / self.minimum_survivors)
        facts |= {"noise_multiplier": multiplier, "noise_std": multiplier * self.clipping_norm * factor}
        released = (opened[: public.dimension] * factor).float()
        return Release({name: released}, (self._event(survivors),), state, facts)

    def _event(self, survivors: int) -> Event:
        variance = survivors * self.share_variance()
        if variance == 0:
            return NonPrivateEvent("no noise was added")
        s, l2 = self.steps_per_unit(), self.integer_limit()
        return SkellamEvent(l2 * min(math.sqrt(self.size), l2) / s, l2 / s, variance / s**2, s)

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """One release with the fewest survivors."""
        return (self._event(self.minimum_survivors),)

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """One release with the fewest survivors per participation."""
        return ((self._event(self.minimum_survivors), participations),)

    def reply_bytes(self, dimension: int, plain_bytes: int) -> int:
        """``bits`` per padded coordinate."""
        return math.ceil(padded(dimension) * self.bits / 8)

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Agarwal, Kairouz, Liu 2021, The Skellam Mechanism for Differentially Private Federated Learning, "
            "arXiv:2110.04995",
            "Kairouz, Liu, Steinke 2021, The Distributed Discrete Gaussian Mechanism, arXiv:2102.06387",
        )


def _skellam(variance: float, like: torch.Tensor, draw: Draws) -> torch.Tensor:
    """Integer noise ``[d]`` of this variance: the difference of two Poisson counts."""
    counts = draw.poisson(variance / 2, (2, like.numel()))
    return counts[0] - counts[1]
