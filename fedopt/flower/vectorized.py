"""Our client work under Flower's own strategies: their messages in, their replies out, many clients at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SType

import fedopt.types as types
from fedopt.data.base import FederatedData
from fedopt.engine.base import Cohort
from fedopt.engine.engine import CohortEngine
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import choose_device


class InProcessArray(Array):
    """An array of Flower's that makes its bytes only when somebody asks: a grid in this process moves none.

    Args:
        values: not changed by anybody afterwards.
    """

    def __init__(self, values: np.ndarray):
        self.dtype, self.shape, self.stype = str(values.dtype), tuple(values.shape), SType.NUMPY
        self._values = values

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """As Flower's own array has them."""
        return bytes(Array(self._values).data)

    def numpy(self) -> np.ndarray:
        """A copy, as from Flower's own array."""
        return self._values.copy()


class FlowerMessages:
    """Answers train and evaluate messages of Flower's strategies with the scenario's client work and model.

    A train message holds one ArrayRecord with the model's parameters by name; the reply holds the trained ones under
    the same name and the metrics ``num-examples`` and ``train_loss``. An evaluate message is answered with ``loss``,
    ``accuracy`` and ``num-examples`` of the client's test share.

    Args:
        scenario: without privacy: Flower's strategies know nothing of our mechanisms.
        data: already loaded data, or None.
        in_process: replies stay in this process, so their arrays are not serialised.
    Raises:
        ValueError: the scenario has a privacy section, or client work with state.
    """

    def __init__(self, scenario: Scenario, data: FederatedData | None = None, in_process: bool = False):
        if scenario.privacy is not None:
            raise ValueError(
                "Flower's own strategies do not carry out the privacy section; deploy the scenario with its own "
                "server (fedopt deploy), or remove the section"
            )
        settings = scenario.engine
        self.work = scenario.client
        self.data = data or scenario.data.load(scenario.seed)
        self.engine = CohortEngine(
            scenario.model,
            self.data,
            choose_device(settings.device),
            scenario.seed,
            formulation=settings.formulation,
            chunk=settings.chunk,
            dtype=settings.dtype,
            threads=settings.threads,
        )
        if self.work.initial_state(self.engine.spec):
            raise ValueError(f"client {self.work.kind()} keeps state, which Flower's strategies do not carry; use sgd")
        self.seed, self._array = scenario.seed, InProcessArray if in_process else Array
        self._read: dict[int, torch.Tensor] = {}

    def arrays(self, params: torch.Tensor | None = None) -> ArrayRecord:
        """Parameters (the initial ones by default) as a Flower record."""
        flat = self.engine.initial_parameters() if params is None else params
        named = self.engine.spec.unflatten(flat)
        return ArrayRecord({name: self._array(value.detach().cpu().numpy()) for name, value in named.items()})

    def answer(self, messages: Sequence[Message], clients: Sequence[int], tasks: Sequence[int]) -> list[Message]:
        """Replies to messages of any age, trained together."""
        replies: list[Message | None] = [None] * len(messages)
        training = [i for i, m in enumerate(messages) if m.metadata.message_type.startswith("train")]
        for i in set(range(len(messages))) - set(training):
            replies[i] = self._evaluate(messages[i], clients[i])
        self._read = {}
        if training:
            made = self._train(
                [messages[i] for i in training], [clients[i] for i in training], [tasks[i] for i in training]
            )
            for i, reply in zip(training, made, strict=True):
                replies[i] = reply
        return [reply for reply in replies if reply is not None]

    def _train(self, messages: list[Message], clients: list[int], tasks: list[int]) -> list[Message]:
        sizes = self.data.clients.sizes()
        given = [types.Message({"params": self._params(m)}, {"version": _round(m)}) for m in messages]
        steps = [self.work.planned_steps(int(sizes[c]), g) for c, g in zip(clients, given, strict=True)]
        cohort = Cohort(tuple(clients), tuple(tasks), tuple(given), tuple(steps), self.seed)
        reply = self.work.work(cohort, self.engine)  # type: ignore[arg-type]
        rows, losses = reply.parts["update"].rows(), reply.metrics.get("train_loss")
        found = []
        for row, message in enumerate(messages):
            metrics = MetricRecord({"num-examples": int(sizes[clients[row]])})
            if losses is not None:
                metrics["train_loss"] = float(losses[row])
            arrays = self.arrays(rows[row].add_(given[row].parts["params"]))
            content = RecordDict({next(iter(message.content.array_records)): arrays, "metrics": metrics})
            found.append(Message(content, reply_to=message))
        return found

    def _params(self, message: Message) -> torch.Tensor:
        """Flat parameters of a message; messages that share a record share the tensor."""
        record = next(iter(message.content.array_records.values()))
        if id(record) not in self._read:
            spec = self.engine.spec
            if list(record) != list(spec.names):
                raise ValueError(
                    f"the message holds arrays {list(record)[:5]} ..., the model {list(spec.names)[:5]} ..."
                )
            pieces = [np.asarray(record[name].numpy(), dtype=np.float32).reshape(-1) for name in spec.names]
            self._read[id(record)] = torch.from_numpy(np.concatenate(pieces)).to(self.engine.device)
        return self._read[id(record)]

    def _evaluate(self, message: Message, client: int) -> Message:
        found = self.engine.evaluate_clients(self._params(message), [client])
        metrics = MetricRecord(
            {
                "loss": float(found.losses[0]),
                found.metric_name: float(found.metrics[0]),
                "num-examples": int(found.num_examples[0]),
            }
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _round(message: Message) -> int:
    """Server version: Flower counts its rounds from 1."""
    for record in message.content.config_records.values():
        if "server-round" in record:
            return max(0, int(record["server-round"]) - 1)  # type: ignore[call-overload,arg-type]
    return 0
