"""Our client work under Flower's own strategies: their messages in, their replies out, many clients at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

import fedopt.types as types
from fedopt.data.base import FederatedData
from fedopt.engine.base import Cohort, DenseUpdates
from fedopt.engine.engine import CohortEngine
from fedopt.flower.in_process import TrainedModel
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import choose_device


class _Order(NamedTuple):
    """One message: what it asks of whom."""

    message: Message
    client: int
    task: int
    params: torch.Tensor  # shape [d], on the device; messages that carry the same arrays share it


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
        self.seed, self._in_process = scenario.seed, in_process

    def arrays(self, params: torch.Tensor | None = None) -> ArrayRecord:
        """Parameters (the initial ones by default) as a Flower record."""
        flat = self.engine.initial_parameters() if params is None else params
        named = self.engine.spec.unflatten(flat.detach().cpu())
        return ArrayRecord({name: Array(value.numpy()) for name, value in named.items()})

    def answer(self, messages: Sequence[Message], clients: Sequence[int], tasks: Sequence[int]) -> list[Message]:
        """Replies to messages of any age, trained together."""
        orders = [_Order(*each) for each in zip(messages, clients, tasks, self._params(messages), strict=True)]
        training = [m.metadata.message_type.startswith("train") for m in messages]
        trained = iter(self._train([order for order, is_work in zip(orders, training, strict=True) if is_work]))
        others = iter(self._evaluate([order for order, is_work in zip(orders, training, strict=True) if not is_work]))
        return [next(trained if is_work else others) for is_work in training]

    def _train(self, orders: list[_Order]) -> list[Message]:
        if not orders:
            return []
        clients, tasks = tuple(o.client for o in orders), tuple(o.task for o in orders)
        sizes = self.data.clients.sizes()[list(clients)].tolist()
        given = tuple(types.Message({"params": o.params}, {"version": _round(o.message)}) for o in orders)
        steps = tuple(self.work.planned_steps(size, sent) for size, sent in zip(sizes, given, strict=True))
        reply = self.work.work(Cohort(clients, tasks, given, steps, self.seed), self.engine)  # type: ignore[arg-type]
        metrics: dict[str, Sequence[float]] = {"num-examples": sizes}
        if "train_loss" in reply.metrics:
            metrics["train_loss"] = reply.metrics["train_loss"].tolist()
        updates, starts = reply.parts["update"], [o.params for o in orders]
        if self.engine.device.type != "cpu":  # one copy, not one for every array
            updates, starts = DenseUpdates(updates.rows().cpu()), _on_host(starts)
        found = []
        for row, order in enumerate(orders):
            model = TrainedModel(updates, row, starts[row], self.engine.spec)
            arrays = model.record() if self._in_process else self.arrays(model.flat())
            numbers = MetricRecord({name: values[row] for name, values in metrics.items()})
            content = RecordDict({_array_record(order.message)[0]: arrays, "metrics": numbers})
            found.append(Message(content, reply_to=order.message))
        return found

    def _params(self, messages: Sequence[Message]) -> list[torch.Tensor]:
        """Flat parameters of every message; messages that carry the same arrays share the tensor."""
        read: dict[tuple[int, ...], torch.Tensor] = {}
        found = []
        for message in messages:
            record = _array_record(message)[1]
            same = tuple(map(id, record.values()))
            if same not in read:
                read[same] = self._flat(record)
            found.append(read[same])
        return found

    def _flat(self, record: ArrayRecord) -> torch.Tensor:
        spec = self.engine.spec
        if list(record) != list(spec.names):
            raise ValueError(f"the message holds arrays {list(record)[:5]} ..., the model {list(spec.names)[:5]} ...")
        pieces = [np.asarray(record[name].numpy(), dtype=np.float32).reshape(-1) for name in spec.names]
        return torch.from_numpy(np.concatenate(pieces)).to(self.engine.device)

    def _evaluate(self, orders: list[_Order]) -> list[Message]:
        """One pass over the clients of every distinct model."""
        by_model: dict[int, list[int]] = {}
        for i, order in enumerate(orders):
            by_model.setdefault(id(order.params), []).append(i)
        replies: dict[int, Message] = {}
        for members in by_model.values():
            result = self.engine.evaluate_clients(orders[members[0]].params, [orders[i].client for i in members])
            for row, i in enumerate(members):
                metrics = {
                    "loss": float(result.losses[row]),
                    result.metric_name: float(result.metrics[row]),
                    "num-examples": int(result.num_examples[row]),
                }
                content = RecordDict({"metrics": MetricRecord(metrics)})  # type: ignore[arg-type]
                replies[i] = Message(content, reply_to=orders[i].message)
        return [replies[i] for i in range(len(orders))]


def _array_record(message: Message) -> tuple[str, ArrayRecord]:
    """The first array record of a message, and its name."""
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            return name, record
    raise ValueError(f"the message holds no ArrayRecord, only {list(message.content)}")


def _on_host(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copies on the CPU; equal tensors share one."""
    moved = {id(tensor): tensor.cpu() for tensor in tensors}
    return [moved[id(tensor)] for tensor in tensors]


def _round(message: Message) -> int:
    """Server version: Flower counts its rounds from 1."""
    for record in message.content.values():
        if isinstance(record, ConfigRecord) and "server-round" in record:
            return max(0, int(record["server-round"]) - 1)  # type: ignore[call-overload,arg-type]
    return 0
