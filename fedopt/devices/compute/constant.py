"""Explicit fixed times."""

from __future__ import annotations

from fractions import Fraction

from pydantic import Field, field_validator

from fedopt.devices._times import FixedTimes, common_denominator, exact
from fedopt.devices.base import ComputeModel, ComputeTimes, Fleet


class Constant(ComputeModel):
    """Fixed times given one by one, exact: one number for all clients, or one per client.

    Decimals are taken as written (0.1 is 1/10) and ratios may be given as text ("1/3"). With ``per_step`` they are the
    time of one local step: ``T_i = seconds_i * local_steps``. The four-worker cluster of asynchronous Local-SGD is
    ``seconds: [0.58, 0.75, 1.51, 3.33], per_step: true``.

    References: Liu et al. 2024, Asynchronous Local-SGD Training for Language Modeling, arXiv:2401.09135 (the cluster).
    """

    seconds: tuple[float | str, ...] = Field(
        (1.0,),
        min_length=1,
        strict=False,
        description="time in seconds: a single one for all clients, or one per client",
    )
    per_step: bool = Field(False, description="whether seconds is the time of one local step instead of a whole task")

    @field_validator("seconds", mode="before")
    @classmethod
    def _single(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float | str) else value

    @field_validator("seconds")
    @classmethod
    def _numbers(cls, value: tuple[float | str, ...]) -> tuple[float | str, ...]:
        for item in value:
            try:
                negative = exact(item) < 0
            except (ValueError, ZeroDivisionError):
                raise ValueError(f'must be decimals or ratios like "1/3" >= 0, got {item!r}') from None
            if negative:
                raise ValueError(f"must be >= 0, got {item!r}")
        return value

    def denominator(self, num_clients: int) -> int:
        """All times are multiples of one over this."""
        return common_denominator(map(exact, self.seconds))

    def bind(self, fleet: Fleet) -> ComputeTimes:
        """These times for this fleet.

        Raises:
            ValueError: neither one time nor one per client was given.
        """
        times = [exact(item) for item in self.seconds]
        if len(times) not in (1, fleet.num_clients):
            raise ValueError(
                f"devices.compute.seconds has {len(times)} times for {fleet.num_clients} clients; "
                "give one, or one per client"
            )

        def time_of(client: int) -> Fraction:
            return times[int(client) if len(times) > 1 else 0]

        return FixedTimes(fleet.num_clients, time_of, "step" if self.per_step else "task")
