"""Shuffle model: vector sums from one-bit messages with binomial noise (P_VEC)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, PrivateAttr

from fedopt.privacy.base import ClientContext, ClientResult, Counted, Mechanism, NeedsDimension, Noise, Release
from fedopt.privacy.mechanisms._integers import IntegerUpdates
from fedopt.privacy.mechanisms._parts import (
    CLIENT,
    clip,
    fewest_is_known,
    one_update,
    require_bound,
    require_unit_weights,
    withheld,
)
from fedopt.privacy.releases import Event, ShuffledSumEvent
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch


class State(NamedTuple):
    """The mechanism keeps nothing."""


class ShuffleVectorSum(Mechanism):
    """P_VEC: every coordinate is sent as ``levels + bits`` labelled one-bit messages through a shuffler.

    With x clipped to norm C, coordinate j becomes ``w = x_j + C`` in [0, 2C], is rounded without bias to one of
    g = ``levels`` steps, and ``Bin(bits, bias)`` ones are added. The shuffled bits carry exactly their number Y per
    coordinate, and the sum is estimated by ``(2C / g) (Y - n bits bias) - n C``.

    Guarantees: unbiased for ``sum_i x_i``; variance per coordinate
    ``(2C / g)^2 (n bits bias (1 - bias) + sum_i f_i (1 - f_i))``, f_i the fractions of rounding. Counts are integers,
    summed exactly. Charged with the number delivered; below ``minimum_clients`` nothing is opened. The aggregator sees
    neither client ids nor weights. Bytes count every labelled bit.

    References: Cheu, Joseph, Mao, Peng 2022, Shuffle Private Stochastic Convex Optimization, Section 3,
    arXiv:2106.09805.

    Differences from the paper: ``bits`` is calibrated numerically (its closed form is orders of magnitude larger);
    ``levels`` defaults to max(2 sqrt(n), 4 sqrt(d), 4); a simulation draws one binomial per client and coordinate
    instead of single bits.
    """

    clipping_norm: float = Field(1.0, gt=0, description="largest L2 norm C of one client's contribution")
    levels: int | None = Field(None, ge=1, description="rounding levels g per coordinate; null: from n and d")
    bits: int | None = Field(
        None, ge=1, description="noise bits b per client and coordinate; null calibrates them to privacy.target_epsilon"
    )
    bias: float = Field(0.25, gt=0, le=0.5, description="probability p of a one in a noise bit")
    minimum_clients: int | None = Field(
        None, ge=1, description="honest clients that a shuffle needs; null: the whole cohort, where none can be lost"
    )
    largest_dimension: int = Field(
        2000, ge=1, description="refuse models with more parameters: the number of messages grows with it"
    )

    trusts = ("shuffle",)
    unit_weights = True
    anonymous = True
    noise_settings = ("bits",)
    _dimension: int | None = PrivateAttr(None)
    _cohort: float = PrivateAttr(1.0)

    def prepared(self, scenario: Any, public: Public) -> ShuffleVectorSum:
        """Learn dimension and expected cohort.

        Raises:
            ValueError: the model is too large for this protocol.
        """
        if public.dimension is not None and public.dimension > self.largest_dimension:
            raise ValueError(
                f"shuffle_vector_sum sends (levels + bits) messages per parameter and the model has {public.dimension} "
                f"(limit {self.largest_dimension}); use mechanism: {{kind: shuffle_hemisphere}} or a smaller model"
            )
        made = self.model_copy()
        made._dimension, made._cohort = public.dimension, public.expected_cohort
        return made

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """Replies must be one vector of the model's size, and the fewest clients must be known."""
        return (*one_update(scenario, "shuffle_vector_sum"), *fewest_is_known(scenario, self.minimum_clients))

    @property
    def fewest(self) -> int:
        """Clients that a shuffle needs."""
        return max(1, math.floor(self._cohort)) if self.minimum_clients is None else self.minimum_clients

    @property
    def dimension(self) -> int:
        """Coordinates d.

        Raises:
            NeedsDimension: there is no model yet.
        """
        if self._dimension is None:
            raise NeedsDimension(
                "shuffle_vector_sum's noise depends on the number of parameters, which needs the model"
            )
        return self._dimension

    @property
    def steps(self) -> int:
        """Rounding levels g."""
        if self.levels is not None:
            return self.levels
        return max(math.ceil(2 * math.sqrt(self._cohort)), math.ceil(4 * math.sqrt(self.dimension)), 4)

    @property
    def noise_bits(self) -> int:
        """b of a mechanism that runs.

        Raises:
            ValueError: it was left open.
        """
        if self.bits is None:
            raise ValueError("bits is not set; give it, or privacy.target_epsilon to calibrate it")
        return self.bits

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def bound(self, part: str, state: Any, public: Public) -> Bound:
        """C."""
        return Bound(self.clipping_norm)

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip, round, add binomial noise: the number of ones per coordinate.

        Raises:
            ValueError: replies of several parts, or weighted ones.
        """
        import torch

        require_unit_weights(context, "shuffle_vector_sum")
        if len(parts) != 1:
            raise ValueError(f"shuffle_vector_sum sums one part per reply, got {sorted(parts)}; use fedavg")
        clipped, metrics = clip(parts, self.clipping_norm)
        (name, batch) = next(iter(clipped.items()))
        rows = batch.rows().double()
        scaled = ((rows + self.clipping_norm) * (self.steps / (2 * self.clipping_norm))).clamp(0, self.steps)
        made = []
        for row, who in zip(scaled, zip(context.clients, context.tasks, strict=True), strict=True):
            draw = context.noise.draws(rows.device, CLIENT, context.step, 0, *who)
            low = row.floor()
            up = draw.uniform(row.shape, row.dtype) < row - low
            made.append((low + up).long() + draw.binomial(self.noise_bits, self.bias, row.shape))
        return ClientResult({name: IntegerUpdates(torch.stack(made))}, metrics)

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Count the ones, remove their expectation and the offset."""
        (name, (value, declared)) = next(iter(reduced.items()))
        factor = require_bound(name, declared).l2 / self.clipping_norm  # 1 / the denominator of the mean
        unit = 2 * self.clipping_norm / self.steps
        std = unit * math.sqrt(max(survivors, 1) * self.noise_bits * self.bias * (1 - self.bias)) * factor
        facts = {"clipping_norm": self.clipping_norm, "noise_std": std}
        if survivors < self.fewest:
            return Release(withheld(reduced, self.dimension), (), state, facts)
        ones = (value.double() / factor).round()
        total = unit * (ones - survivors * self.noise_bits * self.bias) - survivors * self.clipping_norm
        return Release({name: (total * factor).float()}, (self._event(survivors),), state, facts)

    def _event(self, clients: int) -> Event:
        return ShuffledSumEvent(clients, self.dimension, self.steps, self.noise_bits, self.bias)

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """One sum with the fewest clients."""
        return (self._event(self.fewest),)

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """One sum with the fewest clients per participation."""
        return ((self._event(self.fewest), participations),)

    def noise_level(self) -> float | None:
        """Noise bits."""
        return None if self.bits is None else float(self.bits)

    def with_noise_level(self, level: float, releases: int, scenario: Any) -> ShuffleVectorSum:
        """Noise std ``level`` times the largest shift: ``(level (g + sqrt(d)))^2 / (n p (1 - p))`` bits."""
        shift = self.steps + math.sqrt(self.dimension)
        bits = math.ceil((level * shift) ** 2 / (self.fewest * self.bias * (1 - self.bias)))
        return self.model_copy(update={"bits": max(1, bits)})

    def reply_bytes(self, dimension: int, plain_bytes: int) -> int:
        """Every message is one bit and the label of its coordinate."""
        label = max(1, math.ceil(math.log2(max(2, dimension))))
        return math.ceil(dimension * (self.steps + self.noise_bits) * (1 + label) / 8)

    def references(self) -> tuple[str, ...]:
        """Source."""
        return ("Cheu et al. 2022, Shuffle Private Stochastic Convex Optimization, ICLR, arXiv:2106.09805",)
