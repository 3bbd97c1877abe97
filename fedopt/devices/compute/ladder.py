"""Fixed linear ladder of speeds, F-X."""

from __future__ import annotations

from fractions import Fraction

from pydantic import Field

from fedopt.devices._times import FixedTimes, common_denominator, exact
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class Ladder(ComputeModel):
    """Fixed times on a linear ladder (F-X): client 0 is the slowest, the last is X % faster.

    ``T_i = slowest_s * (1 - (X / 100) * i / (M - 1))``, ``i = 0..M-1``, as exact fractions; ``T_0 = slowest_s`` if M =
    1.

    Guarantees: every T_i is a multiple of ``1 / denominator(M)``; ``T_0 / T_{M-1} = 1 / (1 - X / 100)``.

    References: Fraboni, Vidal, Kameni, Lorenzi 2022, A General Theory for Federated Optimization with Asynchronous and
    Heterogeneous Clients Updates, arXiv:2206.10189 (experiments; F-0 and F-80).
    """

    slowdown_percent: float = Field(
        80.0, ge=0, lt=100, description="X: how much less time the fastest client needs than the slowest, in percent"
    )
    slowest_s: float = Field(1.0, gt=0, allow_inf_nan=False, description="time of client 0, the slowest, in seconds")

    def denominator(self, num_clients: int) -> int:
        """All times are multiples of one over this."""
        return common_denominator([exact(self.slowest_s), self._rung(num_clients)])

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """The ladder over this fleet."""
        slowest, rung = exact(self.slowest_s), self._rung(fleet.num_clients)
        return FixedTimes(fleet.num_clients, lambda client: slowest - int(client) * rung)

    def _rung(self, num_clients: int) -> Fraction:
        return exact(self.slowest_s) * exact(self.slowdown_percent) / 100 / max(1, num_clients - 1)
