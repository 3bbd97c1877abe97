"""A random number of epochs."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field, model_validator

from fedopt import rng
from fedopt.devices.base import Fleet, LocalWork, WorkModel


class EpochsUniform(WorkModel):
    """Every task lasts a whole number of epochs, uniform in {low, .., high - 1} (the FedNova setting).

    ``steps = ceil(planned / planned_epochs) * E``. With ``redraw`` E is drawn for every task (FLGo mode ADU), else once
    per client (ASU). ``planned_epochs`` must be the scenario's ``client.epochs``: another number is refused. Where the
    client plans ``steps`` instead, they count as that many epochs.

    References: FLGo work modes ADU and ASU; Wang et al. 2020, FedNova, arXiv:2007.07481 (epochs uniform in 2..5).
    """

    low: int = Field(2, ge=1, description="a: fewest epochs")
    high: int = Field(6, ge=2, description="b: one more than the most epochs")
    redraw: bool = Field(True, description="draw for every task instead of once per client")
    planned_epochs: int = Field(
        1, ge=1, description="client.epochs of the scenario, which planned steps are counted in"
    )

    @model_validator(mode="after")
    def _ordered(self) -> EpochsUniform:
        if self.low >= self.high:
            raise ValueError(f"low must be < high = {self.high}, got {self.low}")
        return self

    def bind(self, fleet: Fleet) -> LocalWork:
        """Draws for this fleet."""
        return _Epochs(self, fleet.seed)


class _Epochs(NamedTuple):
    settings: EpochsUniform
    seed: int

    def steps(self, client: int, task: int, planned: int) -> int:
        """Steps of the task."""
        settings = self.settings
        ids = (client, task) if settings.redraw else (client,)
        epochs = int(rng.generator(self.seed, "work", *ids).integers(settings.low, settings.high))
        return -(-planned // settings.planned_epochs) * epochs
