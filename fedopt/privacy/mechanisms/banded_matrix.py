"""Matrix factorisation: noise that later releases partly cancel (banded Toeplitz)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field, PrivateAttr

from fedopt.privacy.base import ClientContext, ClientResult, Counted, Noise, Release
from fedopt.privacy.correlated import square_root_coefficients, toeplitz_sensitivity
from fedopt.privacy.mechanisms._multiplier import WithMultiplier
from fedopt.privacy.mechanisms._parts import (
    SERVER,
    clip,
    norm_bound,
    normal,
    one_direction,
    require_same_stds,
    stds_of,
)
from fedopt.privacy.releases import Event, MatrixEvent, NonPrivateEvent
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch


class State(NamedTuple):
    """The last correlated noises."""

    recent: dict[str, torch.Tensor]  # part -> x_(t-1), x_(t-2), ..., shape [bands - 1, d]
    stds: dict[str, float]  # part -> std of the independent noise


class BandedMatrix(WithMultiplier):
    """Correlated noise from a banded square-root Toeplitz matrix C: release t carries row t of ``C^-1 Z``.

    With coefficients ``c_j = prod_(i<=j) (2i-1)/(2i)`` for j < ``bands`` and independent ``z_t`` of std
    ``noise_multiplier * sensitivity(C) * bound``, the noise is ``x_t = z_t - sum_(j>=1) c_j x_(t-j)``. Summed over
    releases most of it cancels. ``noise_multiplier`` is that of the whole run.

    Guarantees: the whole run is one Gaussian release of ``noise_multiplier`` for a client that takes part at most k
    times, at least b releases apart, where ``sensitivity(C) = |sum_(j<k) shift_(jb) c|``. ``bands = 1`` is independent
    noise. The state holds what later noise depends on, so a resumed run goes on with the same sum.

    Needs run.server_steps, and a schedule: sampling: separated, or max_participations: 1.

    References: Choquette-Choo et al. 2023, (Amplified) Banded Matrix Factorization, arXiv:2306.08153; Fichtenberger,
    Henzinger, Upadhyay 2023, Constant Matters, arXiv:2202.11205 (coefficients); Kalinin and Lampert 2024,
    arXiv:2405.13763 (sensitivity of banded square roots).

    Differences from the paper: fixed coefficients instead of optimised ones; no amplification by sampling.
    """

    bands: int = Field(16, ge=1, description="non-zero coefficients of C; memory is (bands - 1) models")

    _releases: int = PrivateAttr(0)
    _participations: int = PrivateAttr(1)
    _separation: int = PrivateAttr(1)

    def prepared(self, scenario: Any, public: Public) -> BandedMatrix:
        """Learn length, participations and their separation.

        Raises:
            ValueError: run.server_steps is missing.
        """
        releases = scenario.run.server_steps
        if not releases:
            raise ValueError("banded_matrix needs run.server_steps: its sensitivity is that of the whole run")
        made = self.model_copy()
        made._releases, made._separation = releases, _separation(scenario, public.num_clients)
        possible = math.ceil(releases / made._separation)
        made._participations = min(possible, scenario.privacy.max_participations or possible)
        return made

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """Participations must be apart by a public schedule."""
        found = one_direction(scenario, "banded_matrix")
        if scenario.run.server_steps is None:
            found += ("banded_matrix needs run.server_steps: its sensitivity is that of the whole run",)
        claim = scenario.sampling.claim(10**9, False)
        if claim.min_separation is None and scenario.privacy.max_participations != 1:
            found += (
                "banded_matrix needs to know how far apart a client's participations are; use sampling: {kind: "
                "separated, min_separation: ...} or max_participations: 1",
            )
        return found

    def coefficients(self) -> np.ndarray:
        """c_0 ... c_(bands - 1)."""
        return square_root_coefficients(min(self.bands, max(1, self._releases)))

    def sensitivity(self) -> float:
        """L2 sensitivity of C for unit contributions under the schedule.

        Exact for non-negative, non-increasing coefficients: the earliest participations, b apart, are the worst.
        """
        column = np.zeros(max(1, self._releases))
        column[: len(self.coefficients())] = self.coefficients()
        return toeplitz_sensitivity(column, self._participations, self._separation)

    def init(self, dimension: int, public: Public) -> State:
        """No noise yet."""
        return State({}, {})

    def bound(self, part: str, state: State, public: Public) -> Bound:
        """C, for all parts together."""
        return norm_bound(self.clipping_norm, public)

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
        """Add the next row of correlated noise.

        Raises:
            ValueError: the bound of a value, or which values there are, changes during the run.
        """
        import torch

        column, factor = self.coefficients(), self.multiplier * self.sensitivity()
        stds = stds_of(reduced, factor)
        if state.stds:
            require_same_stds(stds, state.stds, "banded_matrix")
        released, recent = {}, {}
        for index, (name, (value, _)) in enumerate(reduced.items()):
            earlier = state.recent.get(name, value.new_zeros(len(column) - 1, value.numel()))
            taps = torch.from_numpy(column[1:]).to(value)
            drawn = normal(noise, value, stds[name], SERVER, step, index) - taps @ earlier
            released[name] = value + drawn
            recent[name] = torch.cat([drawn[None], earlier])[: len(column) - 1]
        first = next(iter(stds.values()), 0.0)
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": self.multiplier, "noise_std": first}
        return Release(released, self.next_events(state, public), State(recent, stds), facts)

    def _event(self) -> Event:
        if self.multiplier == 0:
            return NonPrivateEvent("no noise was added")
        sensitivity = self.sensitivity()
        return MatrixEvent(self.multiplier * sensitivity, sensitivity)

    def next_events(self, state: State, public: Public) -> tuple[Event, ...]:
        """The event of the whole run, which is paid for once."""
        return (self._event(),)

    def planned_events(self, releases: int, participations: int, public: Public, scenario: Any) -> Counted:
        """The event of the whole run."""
        return ((self._event(), 1),)

    def references(self) -> tuple[str, ...]:
        """Sources."""
        return (
            "Choquette-Choo et al. 2023, (Amplified) Banded Matrix Factorization, arXiv:2306.08153",
            "Fichtenberger, Henzinger, Upadhyay 2023, Constant Matters, arXiv:2202.11205",
        )


def _separation(scenario: Any, num_clients: int) -> int:
    claim = scenario.sampling.claim(num_clients, False)
    return claim.min_separation or 1
