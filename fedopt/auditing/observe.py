"""One run of the real code path, watched: models, what the optimiser saw, single replies, who took part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fedopt.privacy.releases import Relation
from fedopt.protocol import Stepped
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import Parts, assemble
from fedopt.simulation.simulator import Simulator

Build = Callable[[Scenario, Any, Any], Parts]  # (scenario, data, noise) -> parts; tests plant bugs here


@dataclass
class Trace:
    """What a watched run did.

    Args:
        params: model before the first step and after every step, each ``[d]``.
        released: what the server's optimiser saw at every step: part -> tensor.
        rows: ``rounds`` rows of the server.
        outcomes: ``updates`` rows.
        replies: (step, client, reply ``[d]``) as they left the clients, where asked for.
        epsilon: claimed for what happened, under the relation audited; set where it is asked for.
    """

    params: list[torch.Tensor] = field(default_factory=list)
    released: list[dict[str, torch.Tensor]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    replies: list[tuple[int, int, torch.Tensor]] = field(default_factory=list)
    epsilon: float = 0.0

    def cohorts(self) -> dict[int, set[int]]:
        """Step -> clients whose replies went into it."""
        found: dict[int, set[int]] = {}
        for row in self.outcomes:
            if row["status"] == "admitted":
                found.setdefault(row["step"], set()).add(row["client_id"])
        return found

    def moves(self) -> list[torch.Tensor]:
        """What every step did to the model, float64 ``[d]`` each."""
        return [(after - before).double() for before, after in zip(self.params, self.params[1:], strict=False)]


class _Watched:
    """Passes everything on to an inner object; subclasses look at some calls."""

    def __init__(self, inner: Any, trace: Trace):
        self._inner, self._trace = inner, trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _WatchedMethod(_Watched):
    def step(self, state: Any, released: dict[str, torch.Tensor], public: Any) -> Any:
        self._trace.released.append({name: value.detach().clone() for name, value in released.items()})
        return self._inner.step(state, released, public)


class _WatchedMechanism(_Watched):
    def on_client(self, parts: Any, context: Any, state: Any) -> Any:
        result = self._inner.on_client(parts, context, state)
        name = next(iter(result.parts))
        for client, row in zip(context.clients, result.parts[name].rows(), strict=True):
            self._trace.replies.append((context.step, client, row.detach().clone()))
        return result


def build(scenario: Scenario, data: Any, noise: Any) -> Parts:
    """The parts of a run, as a simulation assembles them."""
    return assemble(scenario, data, noise)


def watch(parts: Parts, batch_size_of: Any, replies: bool = False) -> Trace:
    """Run to the end and record.

    Args:
        parts: of the run; used up.
        batch_size_of: of the client work.
        replies: keep every reply as it leaves its client (not under secure aggregation or shuffling).
    """
    trace = Trace()
    server, computation = parts.server, parts.computation
    server.method = _WatchedMethod(server.method, trace)  # type: ignore[assignment]
    if replies:
        computation.mechanism = _WatchedMechanism(computation.mechanism, trace)  # type: ignore[assignment]
    trace.params.append(server.state.method.params.detach().clone())

    def on_step(stepped: Stepped, metrics: dict[str, float]) -> None:
        trace.params.append(server.state.method.params.detach().clone())
        trace.rows.append(stepped.row)

    Simulator(server, computation, parts.clock, batch_size_of, on_step, trace.outcomes.append).run()
    return trace


def audited_relation(relation: Relation) -> Relation:
    """Canaries are there or not: a claim under replace-one is judged by what it says about an empty contribution."""
    return "zero_out_one" if relation == "replace_one" else relation


def claimed(parts: Parts) -> float:
    """Epsilon of the run so far under the relation that canaries test."""
    from fedopt.privacy.events import require_relation
    from fedopt.privacy.releases import AccountingError
    from fedopt.privacy.spending import epsilon_of

    accounting = parts.server.affordable
    privacy = accounting.privacy
    profiles = accounting.profiles(parts.server.state.tally)
    relation = audited_relation(privacy.relation)
    try:
        for profile in profiles:
            require_relation((event for event, _ in profile), relation)
    except AccountingError:
        relation = privacy.relation  # an upper bound: an empty contribution is an admissible replacement
    return max((epsilon_of(p, relation, privacy.delta, privacy.accountant) for p in profiles), default=0.0)
