"""Evaluations of the global model within a run: the last one, the best one, and the columns that show them."""

from __future__ import annotations

from typing import Any

import torch

from fedopt.engine.engine import CohortEngine


class Evaluations:
    """What the evaluations of a run came to so far.

    Args:
        engine: evaluates; says whether a larger metric is better.

    Attributes:
        last: what the engine found (``loss``, ``metric_name``, ``metric_value`` ...) and its ``step``; empty before.
        best: metric and step of the best evaluation, or None.
        moved: whether a model that was evaluated was any other than the initial one.
    """

    def __init__(self, engine: CohortEngine):
        self._engine = engine
        self.last: dict[str, Any] = {}
        self.best: tuple[float, int] | None = None
        self.moved = False

    def make(self, params: torch.Tensor, step: int) -> dict[str, Any]:
        """Evaluate ``params [d]``, the model after this step.

        Returns:
            The columns of ``rounds`` that are known by it.
        """
        self.moved = self.moved or not torch.equal(params, self._engine.initial_parameters())
        found = self._engine.evaluate(params)
        self.last = {**found, "step": step}
        if self.best is None or (found["metric_value"] - self.best[0]) * self._goal() > 0:
            self.best = (found["metric_value"], step)
        return {
            "test_loss": found["loss"],
            "metric_name": found["metric_name"],
            "metric_value": found["metric_value"],
            "test_accuracy": found.get("accuracy"),
        }

    def have_reached(self, target: float | None) -> bool:
        """Whether some evaluation was at least as good as ``target``; never without one."""
        return target is not None and self.best is not None and (self.best[0] - target) * self._goal() >= 0

    def _goal(self) -> int:
        return 1 if self._engine.metric_goal == "max" else -1
