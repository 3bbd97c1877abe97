"""Which formulation computes a model's cohorts, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

from fedopt.engine.loop import Loop
from fedopt.engine.tasks import LossTask

FORMULATIONS = ("auto", "loop")


class Selection(NamedTuple):
    """The formulation that is used and the reason, for the run's record."""

    formulation: str
    reason: str


def select(task: LossTask, wanted: str) -> tuple[Selection, Any, Any]:
    """The formulation of a task: its record, the object, and what it falls back to.

    Raises:
        ValueError: unknown formulation.
    """
    if wanted not in FORMULATIONS:
        raise ValueError(f"engine.formulation must be one of {', '.join(FORMULATIONS)}, got {wanted!r}")
    loop = Loop(task)
    return Selection("loop", "the reference formulation"), loop, loop
