"""Which formulation computes a model's cohorts, and why.

The rule, from the measurements in ``docs/performance.md``: on a GPU chains of known layers are replayed as CUDA graphs.
Other chains that end in linear layers, and on a CPU all of them, go to the hand-batched layers, with wide linear layers
in dual form (on a CPU only where there are any); everything else to the loop on a CPU (where ``vmap`` gains nothing:
writing per-client gradients costs more than the loop's overhead) and to ``vmap`` on a GPU where it can run the module.
A local rule that the chosen formulation does not cover goes to the first of dual, vmap and loop that does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fedopt.engine.base import LocalRule
from fedopt.engine.batched import Batched, batched_refusal
from fedopt.engine.chains import has_wide_layer
from fedopt.engine.graphed import Graphed, graphed_refusal
from fedopt.engine.loop import Loop
from fedopt.engine.tasks import LossTask
from fedopt.engine.vectorized import Vectorized, refusal

FORMULATIONS = ("auto", "loop", "vmap", "batched", "dual", "graphed")


class Selection(NamedTuple):
    """The formulation that is used and the reason, for the run's record."""

    formulation: str
    reason: str


def select(task: LossTask, wanted: str) -> tuple[Selection, Any]:
    """The formulation of a task: its record and the object.

    Raises:
        ValueError: unknown formulation.
    """
    if wanted not in FORMULATIONS:
        raise ValueError(f"engine.formulation must be one of {', '.join(FORMULATIONS)}, got {wanted!r}")
    chosen, reason = _rule(task) if wanted == "auto" else (wanted, "asked for by engine.formulation")
    trouble = _trouble(task, chosen)
    if trouble is not None:
        return Selection("loop", f"{chosen} does not apply: {trouble}"), Loop(task)
    return Selection(chosen, reason), build(task, chosen)


class Formulations:
    """The chosen formulation of a task, and those that take over where it does not cover a local rule.

    Args:
        task: model and data.
        wanted: ``auto`` or one of ``FORMULATIONS``.
    Raises:
        ValueError: unknown formulation.
    """

    def __init__(self, task: LossTask, wanted: str):
        self._task = task
        self.selection, self.chosen = select(task, wanted)
        self._made: dict[str, Any] = {}

    def covering(self, rule: LocalRule) -> Any:
        """The chosen one, or the first of dual, vmap and loop that covers the rule."""
        if _covers(self.chosen, rule):
            return self.chosen
        # Made only when needed: whether vmap applies takes seconds to find out.
        return next(found for found in map(self._other, ("dual", "vmap", "loop")) if found and _covers(found, rule))

    def _other(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = None if _trouble(self._task, name) is not None else build(self._task, name)
        return self._made[name]


def _covers(formulation: Any, rule: LocalRule) -> bool:
    supports = getattr(formulation, "supports", None)
    return supports is None or bool(supports(rule))


def _rule(task: LossTask) -> tuple[str, str]:
    no_chain = _trouble(task, "dual")
    if task.device.type == "cuda" and _trouble(task, "graphed") is None:
        return "graphed", "a chain of known layers: hand-batched, its steps replayed as CUDA graphs"
    if no_chain is None and (task.device.type != "cpu" or has_wide_layer(task.module)):
        return "dual", "a chain ending in linear layers: hand-batched, wide layers in dual form where that is less work"
    if no_chain is None:
        return "batched", "a chain ending in linear layers, all of which stay in the cache: hand-batched"
    if task.device.type == "cpu":
        return "loop", f"{no_chain}, and on a CPU vmap gains nothing over the loop"
    trouble = _trouble(task, "vmap")
    return ("vmap", no_chain) if trouble is None else ("loop", f"{no_chain}; no vmap: {trouble}")


def _trouble(task: LossTask, name: str) -> str | None:
    """Why a formulation cannot compute this task, or None."""
    if name == "vmap":
        return refusal(task.module, task.inputs[:2])
    if name == "loop":
        return None
    if name == "graphed":
        return graphed_refusal(task)
    return batched_refusal(task, convolutions=task.device.type != "cpu")


def build(task: LossTask, name: str) -> Any:
    """A formulation by name."""
    match name:
        case "vmap":
            return Vectorized(task)
        case "batched":
            return Batched(task, "never")
        case "dual":
            return Batched(task, "auto")
        case "graphed":
            return Graphed(task)
    return Loop(task)
