"""What zeroth-order clients share: the client's function as values only, its batches, and the check of two points.

A client's function is the objective of a black-box task, or the loss of the model on the client's examples. Every
value that is asked for is one query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from fedopt.clients.base import ClientWork
from fedopt.engine.base import BatchPlan, Cohort, CohortReply, DenseUpdates, Engine
from fedopt.rng import generator
from fedopt.types import Message, ParamSpec

if TYPE_CHECKING:
    import torch

Values = Callable[["torch.Tensor"], "torch.Tensor"]  # points [cohort or 1, queries, d] -> values [cohort, queries]

CHECK = "check"  # phase in which the server compares two points by their values
CHECK_BYTES = 16  # two values as float64


class BlackBoxWork(ClientWork):
    """Abstract: client work that only asks for values of the client's function."""

    batch_size: int | Literal["full"] = Field(
        "full", description="examples behind one value of a model's loss, >= 1, or full; black-box tasks have none"
    )
    order: Literal["shuffled", "sampled"] = Field(
        "sampled", description="how batches are drawn: shuffled passes, or a fresh sample for every local step"
    )

    @field_validator("batch_size")
    @classmethod
    def _some_examples(cls, value: int | Literal["full"]) -> int | Literal["full"]:
        if value != "full" and value < 1:
            raise ValueError(f"must be >= 1 or full, got {value}")
        return value

    def batch_size_of(self, num_examples: int) -> int:
        """``min(B, n_i)``, or n_i for full batches."""
        return num_examples if self.batch_size == "full" else min(self.batch_size, num_examples)

    def normalizer(self, steps: int) -> float:
        """|a_i|_1 = steps."""
        return float(steps)

    def initial_state(self, spec: ParamSpec) -> dict[str, int | None]:
        """Stateless unless the work says otherwise."""
        return {}

    def plan(self, cohort: Cohort, engine: Engine) -> BatchPlan:
        """Batches of a cohort."""
        return engine.plan_batches(cohort, self.batch_size, self.order)

    def values_at(self, cohort: Cohort, engine: Engine, rows: list[int] | None = None) -> Callable[[int], Values]:
        """Local step t -> the function of every row in that step; a batch is shared by all values of a step.

        Args:
            rows: rows of the cohort, in order; all of them by default.
        """
        of_steps = self.values_of_steps(cohort, engine, list(range(len(cohort))) if rows is None else rows)
        return lambda step: of_steps([step])

    def values_of_steps(self, cohort: Cohort, engine: Engine, rows: list[int]) -> Callable[[list[int]], Values]:
        """Local steps -> the function of every row in each of them: points ``[rows * steps, queries, d]``, the steps of
        a row side by side, to ``[rows * steps, queries]``.
        """
        if engine.data.objective is None:
            return model_values(engine, self.plan(cohort, engine), rows)
        values = objective_values(cohort, engine, rows)

        def of_steps(steps: list[int]) -> Values:
            def at(points: torch.Tensor) -> torch.Tensor:
                # The same function in every step: its queries in the order of the steps, and so its noise.
                if len(steps) == 1:
                    return values(points)
                return values(points.unflatten(0, (len(rows), -1)).flatten(1, 2)).view(points.shape[:2])

            return at

        return of_steps


def objective_values(cohort: Cohort, engine: Engine, rows: list[int]) -> Values:
    """Values of a black-box task in float64, whatever the type of the points: a difference of float32 values is lost in
    their rounding once the radius is small. Noise comes from a stream per task, in the order in which values are asked
    for.
    """
    import torch

    objective = engine.data.objective
    assert objective is not None
    clients = [cohort.clients[row] for row in rows]
    noisy = getattr(objective, "noise_std", 0.0) > 0
    streams = [generator(cohort.seed, "query_noise", cohort.clients[r], cohort.tasks[r]) for r in rows if noisy]

    def values(points: torch.Tensor) -> torch.Tensor:
        points = points.expand(len(clients), -1, -1).double()
        draw = None
        if streams:
            normals = [torch.from_numpy(stream.standard_normal(points.shape[1])) for stream in streams]
            draw = torch.stack(normals).to(points)
        found: torch.Tensor = objective.values(clients, points, draw)
        return found

    return values


def model_values(engine: Engine, plan: BatchPlan, rows: list[int]) -> Callable[[list[int]], Values]:
    """Mean losses on the batches of a plan; steps beyond it see its last batch."""
    import numpy as np
    import torch

    losses, device = engine.loss_values, engine.device
    planned = plan.counts.shape[1]

    def at(steps: list[int]) -> Values:
        chosen = [max(0, min(step, planned - 1)) for step in steps]
        who, when = np.repeat(rows, len(steps)), np.tile(chosen, len(rows))
        indices = plan.indices[who, when] if planned else plan.indices[who, :0].sum(1)
        counts = plan.counts[who, when] if planned else plan.counts[who].sum(1)
        where, real = torch.from_numpy(indices).to(device), torch.from_numpy(counts).to(device)

        def values(points: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = losses.means(points.float(), where, real)
            return made.to(points.dtype)

        return values

    return at


def measuring_type(engine: Engine) -> torch.dtype:
    """Type in which points are perturbed: float64 for a function, the model's own float32 for its loss."""
    import torch

    return torch.float32 if engine.data.objective is None else torch.float64


def without_slopes(scheme: str, engine: Engine) -> tuple[str, ...]:
    """The refusal of forward gradients where the problem gives values only; empty elsewhere."""
    objective = engine.data.objective
    if scheme != "jvp" or objective is None or objective.has_gradients:
        return ()
    return ("scheme jvp needs derivatives and this problem gives values only; use scheme: central",)


def refuse(problems: tuple[str, ...]) -> None:
    """Raise what a client's ``unable`` found.

    Raises:
        ValueError: all problems together.
    """
    if problems:
        raise ValueError("; ".join(problems))


def in_unit_cube(engine: Engine, project: bool) -> bool:
    """Whether iterates are kept in [0, 1]: only where the problem lives there."""
    objective = engine.data.objective
    return project and getattr(objective, "lower", None) == 0.0 and getattr(objective, "upper", None) == 1.0


def groups(keys: list[tuple[int, ...]]) -> list[list[int]]:
    """Rows with equal keys, in ascending order of the keys."""
    return [[row for row, key in enumerate(keys) if key == wanted] for wanted in sorted(set(keys))]


def is_check(message: Message) -> bool:
    """Whether the server asks for values at two points only."""
    return bool(message.config.get("check", False))


def check_reply(cohort: Cohort, engine: Engine, work: BlackBoxWork) -> CohortReply:
    """Values ``[rows, 2]`` at ``params`` and ``previous``; float64, as a difference of float32 values is lost."""
    import torch

    points = torch.stack([cohort.stacked("params"), cohort.stacked("previous")], dim=1).to(engine.device)
    found = work.values_at(cohort, engine)(0)(points.double())
    return CohortReply({"values": DenseUpdates(found)}, states=cohort.states, queries=(2,) * len(cohort))
