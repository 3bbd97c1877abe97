"""Zeroth-order local work with finite differences: FedZO, FedProx-ZO, SCAFFOLD-ZO I and II; vector messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from fedopt.clients._black_box import (
    CHECK_BYTES,
    BlackBoxWork,
    check_reply,
    groups,
    in_unit_cube,
    is_check,
    measuring_type,
    refuse,
    without_slopes,
)
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates, Engine
from fedopt.rng import key
from fedopt.types import Message, ParamSpec
from fedopt.zeroth_order.settings import FiniteDifferenceSettings

if TYPE_CHECKING:
    import torch


class FiniteDifference(BlackBoxWork, FiniteDifferenceSettings):
    """T local steps of ZO-SGD, ZO-sign or ZO-Adam along finite-difference estimates of the client's function.

    | `method` | aggregator | added to the estimate |
    |---|---|---|
    | `fedzo` | any that averages | nothing |
    | `fedprox` | any that averages | proximal (x - x_(r-1)), not in round 1 |
    | `scaffold1` | gradient_correction | mean_j D_j(x_(r-1)) - D_i(x_(r-1)): a second exchange |
    | `scaffold2` | scaffold | mean_j c_j - c_i, c_j the mean of j's estimates in its last round |

    ``scheme: jvp`` takes exact directional derivatives (forward gradients) where the problem can be differentiated.
    ``variant: reference`` is the authors' program: orthonormal directions without their factor d, no projection.

    Guarantees: all clients, directions and evaluations of a local step are one batch on the same examples. 1 + T (Q +
    1) queries per round with forward differences, and Q + 1 more for scaffold1's second exchange, which the reference
    does not count. A client that was away keeps its c_i (the paper has full participation only).

    References: Fang et al. 2022, FedZO, arXiv:2201.09531; Shu et al. 2023, arXiv:2308.04077 (the baselines); Baydin et
    al. 2022, Gradients without Backpropagation, arXiv:2202.08587.

    Differences from the papers: the defaults (Adam, an orthogonal frame of directions, projection on [0, 1]^d) follow
    the comparison of Shu et al.; FedZO of Fang et al. is ``optimizer: {rule: sgd}``, ``directions: sphere`` and
    ``project: false``.
    """

    variant: Literal["default", "reference"] = Field(
        "default", description="defaults of the other options: ours, or the authors' program"
    )

    sends = ("update", "control", "correction", "values")

    @model_validator(mode="before")
    @classmethod
    def _fill_variant(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("variant") != "reference":
            return given
        return {"directions": "orthogonal_unscaled", "project": False, **given}

    def problems(self, aggregator: Any, dimension: int | None) -> tuple[tuple[str, str], ...]:
        """More different directions than dimensions, and a method without its aggregator."""
        found, distinct = [], self.directions in ("orthogonal", "orthogonal_unscaled", "distinct_coordinates")
        if distinct and dimension is not None and self.count > dimension:
            found.append(
                (
                    "count",
                    f"at most {dimension} directions can be {self.directions} in dimension {dimension}, and count is "
                    f"{self.count}; set it to {dimension} or less, or directions: gaussian",
                )
            )
        asks_twice = getattr(aggregator, "exchanges", 2) == 2
        ask = ("points" if asks_twice else "both") if "correction" in aggregator.reply_parts() else None
        misfit = self._misfit("control" in aggregator.message_parts(), ask)
        return (*found, ("method", misfit)) if misfit else tuple(found)

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """Derivatives, for jvp."""
        return without_slopes(self.scheme, engine)

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """T; one for an estimate or values only."""
        if is_check(message) or message.config.get("ask") == "correction":
            return 1
        return int(message.config.get("local_steps", self.local_steps))

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """One float32 per coordinate; scaffold2 sends its control as well; 16 for a check."""
        if is_check(message):
            return CHECK_BYTES
        return (8 if self.method == "scaffold2" else 4) * spec.size

    def planned_queries(self, message: Message, steps: int, task: int) -> int:
        """1 + T estimates; one estimate for a correction, 2 values for a check."""
        if is_check(message):
            return 2
        if message.config.get("ask") == "correction":
            return self.queries_per_estimate()
        return 1 + steps * self.queries_per_estimate() if steps else 0

    def initial_state(self, spec: ParamSpec) -> dict[str, int | None]:
        """Control estimate of the SCAFFOLDs, and whether there is one."""
        return {"control": spec.size, "known": 1} if self.method.startswith("scaffold") else {}

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Work of every client; parts ``update`` (scaffold2: and ``control``), ``correction`` or ``values``.

        Raises:
            ValueError: a method without its aggregator, or scheme jvp on a problem of values only.
        """
        import torch

        message = cohort.messages[0]
        if is_check(message):
            return check_reply(cohort, engine, self)
        refuse(self.unable(engine))
        if message.config.get("ask") == "correction":
            return self._control_only(cohort, engine)
        misfit = self._misfit("control" in message.parts, message.config.get("ask"))
        if misfit:
            raise ValueError(f"method {misfit}")
        dtype = measuring_type(engine)
        start = cohort.stacked("params").to(engine.device, dtype)
        correction = self._correction(cohort, engine, dtype)
        moved, estimates = torch.zeros_like(start), torch.zeros_like(start)
        losses, queries = start.new_zeros(len(cohort)), [0] * len(cohort)
        first = [int(m.config.get("version", 0) == 0) for m in cohort.messages]
        for rows in groups(list(zip(cohort.steps, first, strict=True))):
            if cohort.steps[rows[0]] == 0:
                continue
            done = self._local_phase(cohort, engine, rows, start, correction, bool(first[rows[0]]))
            moved[rows], estimates[rows] = done.points - start[rows], done.mean_estimate
            losses[rows] = done.last_value
            for row in rows:
                queries[row] = done.queries
        parts, states = {"update": DenseUpdates(moved.float())}, None
        if self.method == "scaffold2":
            old = self._own(cohort, engine, torch.float32)
            control = torch.where(torch.tensor(queries, device=engine.device)[:, None] > 0, estimates.float(), old)
            parts["control"] = DenseUpdates(control - old)
            states = {"control": control, "known": control.new_ones(len(cohort), 1)}
        elif self.method == "scaffold1":
            states = dict(cohort.states or {})
        return CohortReply(parts, states, {"train_loss": losses}, tuple(queries))

    def _local_phase(
        self,
        cohort: Cohort,
        engine: Engine,
        rows: list[int],
        start: torch.Tensor,
        correction: torch.Tensor | None,
        first_round: bool,
    ) -> Any:
        """Local steps of rows that do equally many."""
        from fedopt.zeroth_order import baselines

        at = self.values_at(cohort, engine, rows)
        steps = cohort.steps[rows[0]]
        settings = self.model_copy(update={"local_steps": steps, "project": in_unit_cube(engine, self.project)})
        added = None if correction is None else correction[rows]
        return baselines.local_phase(
            start[rows], at(steps - 1), settings, _keys(cohort, rows), added, first_round, objective_at=at
        )  # fmt: skip

    def _control_only(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """SCAFFOLD-I's second exchange: the estimate at the new global point."""

        from fedopt.zeroth_order import baselines

        dtype = measuring_type(engine)
        points = cohort.stacked("params").to(engine.device, dtype)
        rows = list(range(len(cohort)))
        values = self.values_at(cohort, engine)(0)
        made = baselines.estimate_at(points.contiguous(), values, self, _keys(cohort, rows))
        control = made.gradient.float()
        states = {"control": control, "known": control.new_ones(len(cohort), 1)}
        return CohortReply({"correction": DenseUpdates(control)}, states, {}, (made.queries,) * len(cohort))

    def _own(self, cohort: Cohort, engine: Engine, dtype: torch.dtype) -> torch.Tensor:
        assert cohort.states is not None
        return cohort.states["control"].to(engine.device, dtype)

    def _correction(self, cohort: Cohort, engine: Engine, dtype: torch.dtype) -> torch.Tensor | None:
        """Mean control minus the own one ``[rows, d]``; 0 where the client has none yet (scaffold1)."""
        if self.method == "scaffold2":
            return cohort.stacked("control").to(engine.device, dtype) - self._own(cohort, engine, dtype)
        if self.method != "scaffold1" or any("correction" not in m.parts for m in cohort.messages):
            return None
        assert cohort.states is not None
        known = cohort.states["known"].to(engine.device, dtype)
        shared = cohort.stacked("correction").to(engine.device, dtype)
        return (shared - self._own(cohort, engine, dtype)) * known

    def _misfit(self, gets_control: bool, ask: str | None) -> str:
        """Why the method does not go with an aggregator that sends this and asks for that; empty if it does."""
        if self.method == "scaffold2" and not gets_control:
            return "scaffold2 needs the mean control; use aggregator: {kind: scaffold}"
        if self.method in ("fedzo", "fedprox") and gets_control:
            return f"{self.method} sends no control back; use method: scaffold2, or aggregator: {{kind: fedavg}}"
        if self.method in ("fedzo", "fedprox") and ask is not None:
            return f"{self.method} makes no correction; use aggregator: {{kind: fedavg}}, or method: scaffold1"
        if self.method == "scaffold1" and ask not in ("points", "correction"):
            return "scaffold1 needs a second exchange; use aggregator: {kind: gradient_correction, exchanges: 2}"
        return ""


def _keys(cohort: Cohort, rows: list[int]) -> list[int]:
    """One stream of directions per task."""
    return [key(cohort.seed, "finite-difference-directions", cohort.clients[r], cohort.tasks[r]) for r in rows]
