"""Small zeroth-order runs: scenarios, and runs without a directory."""

from __future__ import annotations

from typing import Any

import torch

import fedopt
from fedopt.scenario import from_mapping
from fedopt.simulation.assembly import assemble
from fedopt.simulation.simulator import Simulator

D, N = 12, 4
QUADRATICS = {"kind": "fzoos_quadratics", "dimension": D, "clients": N, "heterogeneity": 2.0}
DIGITS = {"kind": "digits", "clients": 6}
FZOOS = {"kind": "fzoos", "features": 60, "local_steps": 3, "candidates": 10, "global_candidates": 12,
         "global_active_queries": 7, "lengthscales": [5.0]}  # fmt: skip
DIFFERENCES = {"kind": "finite_difference", "local_steps": 3, "count": 4}
SPSA = {"kind": "spsa", "radius": 0.01, "batch_size": 8}
TWO = {"kind": "gradient_correction"}
COMFL = {"kind": "decomfl", "step_size": 0.003}
STREAM = {"sampling": {"kind": "uniform", "concurrency": 3}, "devices": {"compute": {"kind": "half_normal"}}}


def scenario(client: Any, aggregator: Any, steps: int = 4, data: Any = None, **more: Any) -> fedopt.scenario.Scenario:
    chosen = data or QUADRATICS
    model = {"kind": "logistic_regression" if chosen["kind"] == "digits" else "point"}
    body = {
        "name": "zo", "seed": 1, "data": chosen, "model": model, "client": client, "aggregator": aggregator,
        "run": {"server_steps": steps, "evaluate_every": 1, "checkpoint_every": 1, "evaluate_clients": "none"},
        "engine": {"device": "cpu", "threads": 1}, **more,
    }  # fmt: skip
    return from_mapping(body)


class Quick:
    """A run without a directory: state, rows of rounds and of updates."""

    def __init__(self, *arguments: Any, failures: int = 0, **more: Any):
        self.parts = assemble(scenario(*arguments, **more))
        self.start = self.parts.engine.initial_parameters()
        self.rounds: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.values: list[float] = []
        self.losses: list[float] = []  # what clients report of their own function, step by step
        self.failures: list[str] = []
        simulator = Simulator(
            self.parts.server, self.parts.computation, self.parts.clock, lambda n: n, self._step,
            self.updates.append, self.failures.append,
        )  # fmt: skip
        self.ended = simulator.run()
        assert self.ended.status == "finished" and len(self.failures) == failures

    def _step(self, stepped: Any, metrics: Any) -> None:
        self.rounds.append(stepped.row)
        self.losses.append(metrics.get("train_loss", float("nan")))
        self.values.append(self.parts.engine.evaluate(self.state.params)["loss"])

    @property
    def state(self) -> Any:
        return self.parts.server.state.method

    @property
    def params(self) -> torch.Tensor:
        return self.state.params


LOGGED = {
    "decomfl": (SPSA, {**COMFL, "local_steps": 2, "perturbations": 3}, {}),
    "decomfl-async": (SPSA, {**COMFL, "buffer_size": 2, "staleness": {"kind": "polynomial"}}, STREAM),
    "jvp": ({**SPSA, "scheme": "jvp"}, COMFL, {}),
    "one_byte": (SPSA, {"kind": "one_byte", "count": 2, "step_size": 0.01, "stochastic_rounding": True}, {}),
    "one_byte-async": (SPSA, {"kind": "one_byte", "step_size": 0.01, "buffer_size": 2}, STREAM),
    "feedsign": (SPSA, {"kind": "feedsign", "step_size": 0.01}, {}),
    "fedkseed": ({"kind": "fedkseed", "steps": 5, "radius": 0.01}, {"kind": "fedkseed", "candidates": 8,
                 "step_size": 0.003, "pro": True}, {}),
}  # fmt: skip
