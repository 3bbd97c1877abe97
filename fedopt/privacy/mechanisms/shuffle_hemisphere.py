"""Shuffle model with a local vector randomiser and amplification by the numeric clones bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, PrivateAttr

from fedopt.privacy.base import ClientContext, ClientResult, Counted, Mechanism, Noise, Release
from fedopt.privacy.mechanisms._parts import (
    CLIENT,
    clip,
    fewest_is_known,
    one_update,
    require_unit_weights,
    withheld,
)
from fedopt.privacy.releases import Event, ShuffleEvent
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch
    from fedopt.privacy.base import Draws


class State(NamedTuple):
    """The mechanism keeps nothing."""


class ShuffleHemisphere(Mechanism):
    """Every client sends one random vector of fixed length; a shuffler hides whose it is.

    With x clipped to norm C: (1) u = sign * x / |x| with P[sign = +1] = 1/2 + |x| / (2C); (2) h is 1 with probability
    ``e^eps0 / (e^eps0 + 1)``; (3) send ``B w``, w uniform on the unit sphere with ``<w, u> > 0`` if h = 1 and ``<= 0``
    otherwise, ``B = C (e^eps0 + 1) / (e^eps0 - 1) sqrt(pi) Gamma((d + 1) / 2) / Gamma(d / 2)``.

    Guarantees: every message is purely eps0-DP between any two inputs and unbiased, for any d. n delivered messages
    together are amplified by the clones bound, composed over rounds; below ``minimum_clients`` nothing is opened.
    The aggregator sees neither client ids nor weights.

    References: Duchi, Jordan, Wainwright 2018, Minimax Optimal Procedures for Locally Private Estimation,
    arXiv:1604.02390 (the randomiser); Feldman, McMillan, Talwar 2021, Hiding Among the Clones, arXiv:2012.12803.

    Differences from the papers: the numeric bound with clone probability e^-eps0 is used, which holds for every
    randomiser; the tighter one of 2023 does not cover this randomiser (erratum).
    """

    clipping_norm: float = Field(1.0, gt=0, description="largest L2 norm C of one client's contribution")
    local_epsilon: float | None = Field(
        None, gt=0, le=30, description="eps0 of one message; null calibrates it to privacy.target_epsilon"
    )
    minimum_clients: int | None = Field(
        None, ge=1, description="honest messages that a shuffle needs; null: the whole cohort, where none can be lost"
    )

    trusts = ("shuffle",)
    unit_weights = True
    anonymous = True
    noise_settings = ("local_epsilon",)

    _whole_cohort: int = PrivateAttr(1)

    def prepared(self, scenario: Any, public: Public) -> ShuffleHemisphere:
        """Learn the cohort."""
        made = self.model_copy()
        made._whole_cohort = max(1, math.floor(public.expected_cohort))
        return made

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """Replies must be one vector, and the fewest messages must be known."""
        return (*one_update(scenario, "shuffle_hemisphere"), *fewest_is_known(scenario, self.minimum_clients))

    @property
    def fewest(self) -> int:
        """Messages that a shuffle needs."""
        return self._whole_cohort if self.minimum_clients is None else self.minimum_clients

    @property
    def local(self) -> float:
        """eps0 of a mechanism that runs.

        Raises:
            ValueError: it was left open.
        """
        if self.local_epsilon is None:
            raise ValueError("local_epsilon is not set; give it, or privacy.target_epsilon to calibrate it")
        return self.local_epsilon

    def length(self, dimension: int) -> float:
        """B, norm of every message.

        >>> [round(ShuffleHemisphere(local_epsilon=e).length(d), 5) for d, e in ((2, 1.0), (10, 1.0), (10, 4.0))]
        [3.39913, 8.36505, 4.00988]
        """
        half = math.lgamma((dimension + 1) / 2) - math.lgamma(dimension / 2)
        return self.clipping_norm / math.tanh(self.local / 2) * math.sqrt(math.pi) * math.exp(half)

    def init(self, dimension: int, public: Public) -> State:
        """Nothing to keep."""
        return State()

    def bound(self, part: str, state: Any, public: Public) -> Bound:
        """Norm of a message; C where the dimension is not known yet."""
        return Bound(self.length(public.dimension) if public.dimension else self.clipping_norm)

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip and randomise.

        Raises:
            ValueError: replies of several parts, or weighted ones.
        """
        import torch

        from fedopt.engine.base import DenseUpdates

        require_unit_weights(context, "shuffle_hemisphere")
        if len(parts) != 1:
            raise ValueError(f"shuffle_hemisphere sends one part per reply, got {sorted(parts)}; use fedavg")
        clipped, metrics = clip(parts, self.clipping_norm)
        (name, batch) = next(iter(clipped.items()))
        rows = batch.rows()
        made = [
            self._message(row, context.noise.draws(rows.device, CLIENT, context.step, 0, *who))
            for row, who in zip(rows, zip(context.clients, context.tasks, strict=True), strict=True)
        ]
        return ClientResult({name: DenseUpdates(torch.stack(made))}, metrics)

    def _message(self, row: torch.Tensor, draw: Draws) -> torch.Tensor:
        """One randomised row ``[d]``."""
        import torch

        norm = float(row.double().norm())
        sign_coin, side_coin = draw.uniform((2,), torch.float64).tolist()
        direction = row / norm if norm > 0 else torch.nn.functional.one_hot(torch.tensor(0), row.numel()).to(row)
        if sign_coin >= 0.5 + min(norm / self.clipping_norm, 1.0) / 2:
            direction = -direction
        normal = draw.normal(row.shape, row.dtype)
        towards = side_coin < 1.0 / (1.0 + math.exp(-self.local))
        flip = (float(normal @ direction) > 0) != towards
        return normal * ((-1.0 if flip else 1.0) * self.length(row.numel()) / float(normal.double().norm()))

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Open the shuffled messages if enough arrived; charged with the number delivered."""
        size = next(iter(reduced.values()))[0].numel()
        facts = {"clipping_norm": self.clipping_norm, "noise_std": self.length(size) / math.sqrt(size)}
        if survivors < self.fewest:
            return Release(withheld(reduced, size), (), state, facts)
        values = {name: value for name, (value, _) in reduced.items()}
        return Release(values, (ShuffleEvent(self.local, survivors),), state, facts)

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """One shuffle with the fewest messages."""
        return (ShuffleEvent(self.local, self.fewest),)

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """One shuffle with the fewest messages per participation."""
        return ((ShuffleEvent(self.local, self.fewest), participations),)

    def noise_level(self) -> float | None:
        """1 / eps0."""
        return None if self.local_epsilon is None else 1.0 / self.local_epsilon

    def with_noise_level(self, level: float, releases: int, scenario: Any) -> ShuffleHemisphere:
        """eps0 = 1 / level, at most 30."""
        return self.model_copy(update={"local_epsilon": min(30.0, 1.0 / level)})

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Duchi, Jordan, Wainwright 2018, Minimax Optimal Procedures for Locally Private Estimation, "
            "arXiv:1604.02390",
            "Feldman, McMillan, Talwar 2021, Hiding Among the Clones, arXiv:2012.12803",
        )
