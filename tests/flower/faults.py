"""Client apps and grids that misbehave in one named way; used on the virtual grid and on real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context, Message

from fedopt.flower.wire import FACTS, PARTS, RAW

Answer = Callable[[Message, Context], Message]
KINDS = (
    "raises",
    "nan",
    "wrong_shape",
    "wrong_type",
    "lying_length",
    "enormous",
    "other_dispatch",
    "no_facts",
    "pickle",
)


def spoil(kind: str, reply: Message) -> Message:
    """The reply, spoilt."""
    record = reply.content.array_records[PARTS]
    good = record["update"]
    size = good.shape[0]
    if kind == "nan":
        record["update"] = _array(torch.full((size,), float("nan")))
    elif kind == "wrong_shape":
        record["update"] = _array(torch.zeros(size + 1))
    elif kind == "wrong_type":
        record["update"] = Array("float64", (size,), RAW, bytes(8 * size))
    elif kind == "lying_length":
        record["update"] = Array("float32", (size,), RAW, bytes(4 * size - 4))
    elif kind == "enormous":
        record["update"] = Array("float32", (50_000_000,), RAW, bytes(200_000_000))
    elif kind == "other_dispatch":
        facts = reply.content.config_records[FACTS]
        facts["json"] = str(facts["json"]).replace('"dispatch": ', '"dispatch": 7')
    elif kind == "no_facts":
        del reply.content[FACTS]
    elif kind == "pickle":
        reply.content[PARTS] = ArrayRecord({"update": Array("float32", (size,), "numpy.ndarray", good.data)})
    return reply


def _array(values: torch.Tensor) -> Array:
    return Array("float32", tuple(values.shape), RAW, values.numpy().tobytes())


def faulty(kind: str, client: int = 0) -> Callable[[Answer], Answer]:
    """Wrap a ClientApp so that one client's training fails in this way."""

    def wrap(app: Answer) -> Answer:
        def answer(message: Message, context: Context) -> Message:
            is_ours = int(context.node_config["partition-id"]) == client
            if not is_ours or message.metadata.message_type != "train":
                return app(message, context)
            if kind == "raises":
                raise RuntimeError("secret patient 17")
            if kind == "hangs":
                time.sleep(3600)
            if kind == "dies":
                os._exit(3)
            return spoil(kind, app(message, context))

        return answer

    return wrap


class DuplicatingGrid:
    """A grid that hands out every reply again at the next look.

    Args:
        inner: the real grid.
    """

    def __init__(self, inner: Any):
        self.inner = inner
        self._again: list[Message] = []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies, and those of last time once more."""
        found = list(self.inner.pull_messages(message_ids))
        repeated, self._again = self._again, [m for m in found if m.metadata.message_type == "train"]
        return [*found, *repeated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
