"""FZooS' local work: surrogate gradients from the client's own query log, corrected by shared random features."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from fedopt.clients._black_box import CHECK_BYTES, BlackBoxWork, check_reply, groups, in_unit_cube, is_check, refuse
from fedopt.engine.base import Cohort, CohortReply, DenseUpdates, Engine
from fedopt.rng import key
from fedopt.types import Message, ParamSpec
from fedopt.zeroth_order.settings import FzoosSettings

if TYPE_CHECKING:
    import torch

    from fedopt.zeroth_order.query_log import QueryLog


class Row(NamedTuple):
    """What one client's work produced."""

    parts: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    queries: int
    value: float


class Fzoos(BlackBoxWork, FzoosSettings):
    """FZooS: local steps along surrogate gradients; the global correction comes from aggregator gradient_correction.

    Every client keeps all its queries. Per local step it fits a derived Gaussian process to the nearest ones, adds
    ``gamma_t (gradient of w_(r-1) - gradient of its own w)`` over shared random features, takes a step of its
    optimiser, and queries the new point and the most uncertain candidates around it. Asked for its correction (the
    second exchange) it queries around the new global point and replies with the weights w of its features; without a
    second exchange it fits them around its own last point and sends both together. A reply with a value that is NaN or
    infinite fails, and its queries are not logged.

    ``variant: paper`` sets the paper's formulas where the authors' program differs (whole log, one length scale, no
    initial queries, no queries around the global point), ``variant: reference`` the program's choices (Matern kernel,
    uncertainty by the first partial derivative, no projection); options given in the scenario override either.

    Guarantees: all clients of a round are one batch. Queries per round and client are 1 + T + 5 (T - 1), and 1 + 50
    for the second exchange, by default. With aggregator fedavg nothing is corrected. A client that has no weights yet
    is not corrected; a client that was away keeps its log and weights (the paper has full participation only). On a
    model's loss all queries of a task see one batch, that of the next task another.

    References: Shu et al. 2023, Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate Gradients,
    arXiv:2308.04077.

    Differences from the program (also with ``variant: reference``): each client picks its length scale once per round
    from ``lengthscales``, where the program optimises it continuously at every fit; the weights of the features have a
    ridge (``feature_ridge``, 1e-6), where the program has none.
    """

    variant: Literal["default", "paper", "reference"] = Field(
        "default", description="defaults of the other options: ours, the paper's formulas, or the authors' program"
    )

    sends = ("update", "correction", "values")

    @model_validator(mode="before")
    @classmethod
    def _fill_variant(cls, given: Any) -> Any:
        named = given.get("variant", "default") if isinstance(given, dict) else "default"
        if named not in ("paper", "reference"):
            return given
        chosen = FzoosSettings.paper() if named == "paper" else FzoosSettings.reference()
        return {**{name: getattr(chosen, name) for name in chosen.model_fields_set}, **given}

    def problems(self, aggregator: Any, dimension: int | None) -> tuple[tuple[str, str], ...]:
        """More candidates to be queried than are drawn; 0 drawn means no such queries."""
        pairs = (("active_queries", "candidates"), ("global_active_queries", "global_candidates"))
        return tuple(
            (option, f"is {getattr(self, option)}, but {drawn} is {getattr(self, drawn)}; lower it, or raise {drawn}")
            for option, drawn in pairs
            if 0 < getattr(self, drawn) < getattr(self, option)
        )

    def planned_steps(self, num_examples: int, message: Message) -> int:
        """T; one for values or weights only."""
        if is_check(message) or message.config.get("ask") == "correction":
            return 1
        return int(message.config.get("local_steps", self.local_steps))

    def reply_bytes(self, spec: ParamSpec, message: Message, steps: int) -> int:
        """One float32 per coordinate of the point (d) and per feature (M), whichever is asked for; 16 for a check."""
        if is_check(message):
            return CHECK_BYTES
        sizes = {"points": spec.size, "correction": self.features, "both": spec.size + self.features}
        return 4 * sizes[message.config.get("ask", "points")]

    def planned_queries(self, message: Message, steps: int, task: int) -> int:
        """Those of the local steps, with the initial ones in the first task; else of the correction or the check."""
        if is_check(message):
            return 2
        if message.config.get("ask") == "correction":
            return self.queries_around_global()
        return self.queries_of_local_phase(steps) + (self.initial_queries if task == 0 else 0)

    def initial_state(self, spec: ParamSpec) -> dict[str, int | None]:
        """Query log ``[n, d]`` and ``[n]`` float64, own weights ``[M]``, last local point ``[d]``, length scale."""
        return {"points": None, "values": None, "weights": None, "local": None, "lengthscale": None}

    def work(self, cohort: Cohort, engine: Engine) -> CohortReply:
        """Work of every client; parts ``update`` and/or ``correction`` as asked for, or ``values`` for a check."""
        import torch

        if is_check(cohort.messages[0]):
            return check_reply(cohort, engine, self)
        second = cohort.messages[0].config.get("ask") == "correction"
        found: dict[int, Row] = {}
        for rows in groups([self._kind_of_row(cohort, row) for row in range(len(cohort))]):
            done = self._weights_only(cohort, engine, rows) if second else self._local_work(cohort, engine, rows)
            found |= dict(zip(rows, done, strict=True))
        ordered = [found[row] for row in range(len(cohort))]
        parts = {name: DenseUpdates(torch.stack([r.parts[name] for r in ordered])) for name in ordered[0].parts}
        states: Any = {name: [r.state[name] for r in ordered] for name in ordered[0].state}
        losses = torch.tensor([r.value for r in ordered])
        return CohortReply(parts, states, {"train_loss": losses}, tuple(r.queries for r in ordered))

    def _kind_of_row(self, cohort: Cohort, row: int) -> tuple[int, ...]:
        """Rows that agree in this run as one batch: local steps, round, whether corrected, whether the log is new."""
        message = cohort.messages[row]
        empty = cohort.states is None or not len(cohort.states["values"][row])
        return cohort.steps[row], int(message.config.get("round", 1)), int("correction" in message.parts), int(empty)

    def _local_work(self, cohort: Cohort, engine: Engine, rows: list[int]) -> list[Row]:
        """Local steps of rows of one kind."""
        import torch

        from fedopt.zeroth_order import fzoos_round

        steps, round_number, corrected, empty = self._kind_of_row(cohort, rows[0])
        settings = self._at(engine, steps)
        start = torch.stack([cohort.messages[r].parts["params"] for r in rows]).to(engine.device).double()
        log, values, keys = (
            self._log(cohort, engine, rows),
            self.values_at(cohort, engine, rows)(0),
            _keys(cohort, rows),
        )
        asked = 0
        if empty:
            log, asked = fzoos_round.initial_queries(log, start, values, settings, keys)
        shared = own = None
        if corrected:
            shared = torch.stack([cohort.messages[r].parts["correction"] for r in rows]).to(engine.device).double()
            kept = [self._state(cohort, "weights", r) for r in rows]
            own = torch.stack([w.to(shared) if len(w) else s for w, s in zip(kept, shared, strict=True)])
        together = cohort.messages[rows[0]].config.get("ask") == "both"
        maps = self._maps(engine, cohort.shared_seed) if corrected or together else None
        phase = fzoos_round.local_phase(
            log, start, maps, shared, own, values, settings, keys, round_number, self._oracle(engine),
            engine.data.clients.num_clients,
        )  # fmt: skip
        parts = {"update": _known(phase.points - start, phase.log)}
        if together:
            assert maps is not None
            parts["correction"] = _known(fzoos_round.fit_weights(phase.log, phase.points, maps, settings), phase.log)
        weights = parts.get("correction")
        made = []
        for i, row in enumerate(rows):
            state = _log_of(phase.log, i) | {"local": phase.points[i], "lengthscale": phase.lengthscales[i : i + 1]}
            state["weights"] = self._state(cohort, "weights", row) if weights is None else weights[i]
            last = float(state["values"][-1 - settings.queries_after_last_point()])
            made.append(Row({name: part[i] for name, part in parts.items()}, state, phase.queries + asked, last))
        return made

    def _weights_only(self, cohort: Cohort, engine: Engine, rows: list[int]) -> list[Row]:
        """The second exchange: queries around the new global point, then the weights of the features."""
        import torch

        from fedopt.zeroth_order import fzoos_round

        settings = self._at(engine, self.local_steps)
        centre = torch.stack([cohort.messages[r].parts["params"] for r in rows]).to(engine.device).double()
        local = torch.stack([self._state(cohort, "local", r) for r in rows])
        scales = torch.cat([self._state(cohort, "lengthscale", r) for r in rows])
        log, keys = self._log(cohort, engine, rows), _keys(cohort, rows)
        log, asked = fzoos_round.active_queries_at(
            log, centre, local, self.values_at(cohort, engine, rows)(0), settings, keys, scales
        )
        weights = _known(fzoos_round.fit_weights(log, centre, self._maps(engine, cohort.shared_seed), settings), log)
        made = []
        for i in range(len(rows)):
            state = _log_of(log, i) | {"local": local[i], "lengthscale": scales[i : i + 1], "weights": weights[i]}
            at_centre = float(state["values"][len(state["values"]) - asked])
            made.append(Row({"correction": weights[i]}, state, asked, at_centre))
        return made

    def _at(self, engine: Engine, steps: int) -> Fzoos:
        return self.model_copy(update={"local_steps": steps, "project": in_unit_cube(engine, self.project)})

    def _maps(self, engine: Engine, seed: int) -> Any:
        return _random_features(engine.spec.size, self.features, self.feature_lengthscale, seed, str(engine.device))

    def _state(self, cohort: Cohort, name: str, row: int) -> torch.Tensor:
        assert cohort.states is not None
        return cohort.states[name][row]

    def _log(self, cohort: Cohort, engine: Engine, rows: list[int]) -> QueryLog:
        """Query logs of rows, padded to the longest."""
        from fedopt.zeroth_order import query_log

        pairs = [(self._state(cohort, "points", r), self._state(cohort, "values", r)) for r in rows]
        return query_log.stack(pairs, engine.spec.size, engine.device)

    def unable(self, engine: Engine) -> tuple[str, ...]:
        """Known gradients, for the gamma rule oracle."""
        objective = engine.data.objective
        if self.gamma.rule != "oracle" or (objective is not None and objective.has_gradients):
            return ()
        return ("gamma rule oracle needs a problem with known gradients; use inverse_step or constant",)

    def _oracle(self, engine: Engine) -> Any:
        """True gradient of the mean function, for the diagnostic gamma rule only.

        Raises:
            ValueError: the problem has no gradients.
        """
        if self.gamma.rule != "oracle":
            return None
        refuse(self.unable(engine))
        objective = engine.data.objective
        assert objective is not None
        everybody = list(range(objective.num_clients))

        def gradient(points: torch.Tensor) -> torch.Tensor:
            import torch

            count = len(everybody)
            return torch.stack([objective.gradients(everybody, p.expand(count, -1)).mean(0) for p in points])

        return gradient


def _keys(cohort: Cohort, rows: list[int]) -> list[int]:
    """One stream of candidates per task."""
    return [key(cohort.seed, "fzoos-candidates", cohort.clients[r], cohort.tasks[r]) for r in rows]


def _known(part: torch.Tensor, log: QueryLog) -> torch.Tensor:
    """The part ``[rows, n]`` as float32, NaN for a client that was told a value it cannot use: its reply fails, and the
    value does not get into its log.
    """
    import torch

    from fedopt.zeroth_order import query_log

    return part.float().masked_fill(~query_log.finite(log)[:, None], torch.nan)


def _log_of(log: QueryLog, row: int) -> dict[str, torch.Tensor]:
    count = int(log.counts[row])
    return {"points": log.points[row, :count], "values": log.values[row, :count]}


@lru_cache(maxsize=2)
def _random_features(dimension: int, count: int, lengthscale: float, seed: int, device: str) -> Any:
    from fedopt.zeroth_order import random_features

    return random_features.make(dimension, count, lengthscale, seed, device)
