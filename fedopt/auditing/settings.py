"""The ``audit`` section of a scenario. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedopt.components import Section


class Audit(Section):
    """How a run is audited: canaries in the place of clients or examples, attacked through what is released."""

    method: Literal["all", "one_run", "one_shot", "repeats"] = Field(
        "all", description="one_run and repeats give certified lower bounds, one_shot an estimate; all is every one"
    )
    canaries: int | None = Field(
        None, ge=4, description="clients (or examples) that become canaries; null: all of them, at most 1000"
    )
    repeats: int = Field(
        0, ge=0, description="independent runs for Clopper-Pearson bounds; 0: none (200 under method repeats)"
    )
    server_steps: int | None = Field(
        None, ge=1, description="steps of an audit run, judged by what they cost; null: those of the scenario"
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="probability that a certified bound exceeds the truth")
    checks: bool = Field(False, description="also run the named checks of the mechanism's code path")
