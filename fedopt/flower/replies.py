"""Replies that have arrived: checked on arrival, handed to the server as one batch when a step asks for them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from flwr.app import Message as FlowerMessage
from flwr.common.constant import ErrorCode

from fedopt.clients.base import stack_states
from fedopt.engine.base import Cohort, DenseUpdates, UpdateBatch
from fedopt.flower.codes import grow, shrink
from fedopt.flower.node import only_row
from fedopt.flower.wire import Form, WireError, facts_of, tensors_of
from fedopt.privacy.base import ClientContext
from fedopt.privacy.mechanisms._integers import IntegerUpdates
from fedopt.protocol import Collect, Collected, Dispatch
from fedopt.simulation.assembly import Parts
from fedopt.simulation.replies import UNBOUNDED, Part, Replies, anonymous, totals_of
from fedopt.simulation.states import StateStore
from fedopt.types import Ticks

# Clipping on the client and measuring on the server round differently.
NORM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Received:
    """A checked reply, or why it cannot be used."""

    parts: dict[str, torch.Tensor]
    queries: int = 0
    metrics: dict[str, float] | None = None
    problem: str | None = None
    num_bytes: int = 0
    seconds: float | None = None
    began: float | None = None


class Templates:
    """What a reply must look like, found by doing the work once on the server with whatever data it has.

    Args:
        parts: the assembled run.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self._found: dict[tuple[Any, ...], dict[str, Form]] = {}
        self._after: dict[str, torch.Tensor] | None = (
            None  # state that the last work left: a later phase starts from it
        )

    def of(self, dispatch: Dispatch, step: int) -> dict[str, Form]:
        """Forms of the parts of a reply to this dispatch."""
        steps = int(dispatch.message.config["local_steps"])
        settings = {k: v for k, v in dispatch.message.config.items() if k != "version"}
        key = (dispatch.phase, tuple(dispatch.message.parts), steps, repr(settings))
        if key not in self._found:
            self._found[key] = self._probe(dispatch, steps, step)
        return self._found[key]

    def _probe(self, dispatch: Dispatch, steps: int, step: int) -> dict[str, Form]:
        computation, server = self._parts.computation, self._parts.server
        states = StateStore(computation.work.initial_state(computation.engine.spec), computation.engine.device)
        before = self._after or states.get(dispatch.client)
        cohort = Cohort(
            clients=(dispatch.client,),
            tasks=(dispatch.task,),
            messages=(dispatch.message,),
            steps=(steps,),
            seed=0,
            phase=dispatch.phase,
            states=stack_states([before]) if states.names else None,
        )
        reply = computation.work.work(cohort, computation.engine)
        parts: Any = reply.parts
        self._after = {n: v[0] for n, v in reply.states.items()} if reply.states else None
        if server.mechanism is not None:
            assert server.noise is not None
            context = ClientContext((dispatch.client,), (dispatch.task,), step, server.noise, server.public, (1.0,))
            parts = server.mechanism.on_client(parts, context, server.state.mechanism).parts
        sent = shrink({name: only_row(batch) for name, batch in parts.items()}, dispatch.message.config)
        return {name: Form.of(part) for name, part in sent.items()}


def received(message: FlowerMessage, dispatch: Dispatch, node: int, expected: dict[str, Form]) -> Received:
    """A reply, checked: sender, names, types, shapes, sizes, finite numbers. Never raises for a bad message."""
    try:
        if message.metadata.src_node_id != node:
            raise WireError("it comes from another node than the one that was asked")
        facts = facts_of(message.content)
        if facts.get("dispatch") != dispatch.dispatch_id or facts.get("client") != dispatch.client:
            raise WireError("it answers another task")
        parts = grow(tensors_of(message.content, expected), dispatch.message.config)
        return Received(
            parts,
            _count(facts.get("queries", 0)),
            _numbers(facts.get("metrics", {})),
            None,
            sum(form.num_bytes for form in expected.values()),
            _number(facts.get("seconds")),
            _number(facts.get("began")),
        )
    except ValueError as error:  # of the wire, or of a code
        problem = f"client {dispatch.client}, version {dispatch.version}: the reply is not used: {error}"
        return Received({}, problem=problem)


def told_reason(message: FlowerMessage) -> str:
    """Why there is no reply: our nodes' own words, and Flower's, but not the text of a foreign exception.

    An exception that passes by our ClientApp is quoted by Flower, and may quote data.
    """
    code, reason = message.error.code, message.error.reason
    if code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION or not reason:
        return f"the client app raised an exception (Flower's error {code}); see the log of its node"
    return reason


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise WireError("its number of queries is not a count")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise WireError("a duration in it is not a number of seconds")
    return float(value)


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, dict) or len(values) > 20:
        raise WireError("its metrics are not a mapping of numbers")
    good = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {str(name): float(value) for name, value in good.items()}


def collect(run: Parts, kept: dict[int, Received], command: Collect, time: Ticks) -> tuple[Collected, dict[str, float]]:
    """Values of the asked replies in client order, and means of their metrics.

    Args:
        run: the assembled run.
        kept: replies by dispatch; those asked for are taken out.
        command: which ones.
        time: now.
    Raises:
        ValueError: the mechanism cannot weight replies.
    """
    server = run.server
    ids = [meta.dispatch_id for meta in command.metas]
    replies = {i: _checked(run, kept.pop(i, Received({}, problem="the reply was not kept"))) for i in ids}
    failed = {i: r.problem for i, r in replies.items() if r.problem is not None}
    metas = tuple(m for m in command.metas if m.dispatch_id not in failed)
    weights = tuple(w for m, w in zip(command.metas, command.weights, strict=True) if m.dispatch_id not in failed)
    mechanism = server.mechanism
    if mechanism is not None and mechanism.unit_weights and any(weight != 1.0 for weight in weights):
        raise ValueError(f"{mechanism.kind()} needs every reply to count with weight 1; use weights: uniform")
    batches = _batches([replies[m.dispatch_id].parts for m in metas], run.engine.device)
    own = mechanism.own_parts if mechanism is not None else ()
    totals = totals_of(batches, list(weights), own)
    means = _means([replies[m.dispatch_id].metrics or {} for m in metas])
    if mechanism is not None and mechanism.anonymous:
        drawn = random.SystemRandom().sample(range(len(metas)), len(metas))
        metas, batches = anonymous(metas, drawn)[0], {name: batch.take(drawn) for name, batch in batches.items()}
    parts = {
        name: Part(batch, (1.0,) * len(weights) if name in own else weights, totals[name])
        for name, batch in batches.items()
    }
    queries = {i: r.queries for i, r in replies.items() if r.queries}
    state, public = server.state.mechanism, server.public
    bound_of = (lambda part: UNBOUNDED) if mechanism is None else (lambda part: mechanism.bound(part, state, public))
    counted = sum(queries.values())
    return Collected(time, Replies(metas, weights, parts, bound_of), failed, counted, queries), means


def _checked(run: Parts, reply: Received) -> Received:
    """Under central trust the bound that noise is calibrated to is enforced, not believed."""
    server = run.server
    privacy = run.scenario.privacy
    if reply.problem is not None or server.mechanism is None or privacy is None or privacy.trust != "central":
        return reply
    mechanism, own = server.mechanism, server.mechanism.own_parts
    if privacy.unit != "client":
        return reply
    theirs = [tensor for name, tensor in reply.parts.items() if name not in own]
    groups = [("update", theirs), *((name, [reply.parts[name]]) for name in own)]
    for name, tensors in groups:
        norm = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
        limit = mechanism.bound(name, server.state.mechanism, server.public).l2
        if norm > limit * (1 + NORM_TOLERANCE):
            return replace(reply, problem=f"a reply's {name} exceeds its bound {limit:g}; it is not used")
    return reply


def _batches(rows: list[dict[str, torch.Tensor]], device: Any) -> dict[str, UpdateBatch]:
    """One batch per part, rows in the given order."""
    if not rows:
        return {}
    found: dict[str, UpdateBatch] = {}
    for name in rows[0]:
        values = torch.stack([row[name] for row in rows]).to(device)
        if values.is_floating_point():
            found[name] = DenseUpdates(values)
        else:
            found[name] = IntegerUpdates(values)
    return found


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    names = {name for found in metrics for name in found}
    return {n: sum(m[n] for m in metrics if n in m) / sum(n in m for m in metrics) for n in sorted(names)}
