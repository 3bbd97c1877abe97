"""A dispatch of the server as a message to a node: the tensors of the method, and what the client must know."""

from __future__ import annotations

from typing import Any

from flwr.app import Message

from fedopt.flower.grid_state import GridState, Pace
from fedopt.flower.own_facts import public_facts
from fedopt.flower.under_way import Sent
from fedopt.flower.wire import PROTOCOL, encode
from fedopt.simulation.assembly import Parts


def order(sent: Sent, parts: Parts, state: GridState, pace: Pace) -> Message:
    """The message of a task.

    Args:
        sent: the task.
        parts: the assembled run.
        state: says which of its earlier states the client goes on from.
        pace: says when the message expires.
    """
    dispatch, server = sent.dispatch, parts.server
    facts: dict[str, Any] = {
        "protocol": PROTOCOL,
        "dispatch": dispatch.dispatch_id,
        "client": dispatch.client,
        "task": dispatch.task,
        "version": dispatch.version,
        "phase": dispatch.phase,
        "step": server.state.step + 1,
        "seed": parts.scenario.seed,
        "public": public_facts(server.public),
        "config": dict(dispatch.message.config),
        "state_from": next(reversed(state.uncollected.get(dispatch.client, [])), state.committed.get(dispatch.client)),
        "mechanism": _told(server.state.mechanism),
    }
    content = encode(dispatch.message.parts, facts)
    return Message(content, sent.node, "train", ttl=pace.reply_s, group_id=str(server.state.step + 1))


def _told(state: Any) -> dict[str, float]:
    """What clients must know of the mechanism's state: the clipping norm where it moves, never anything secret."""
    norm = getattr(state, "clipping_norm", None)
    return {"clipping_norm": float(norm)} if norm is not None else {}
