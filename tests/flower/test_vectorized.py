"""Our client work under Flower's own strategies, and the arrays it answers with."""

from __future__ import annotations

import copy
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, Krum, QFedAvg
from virtual_deployment import scenario

from fedopt.api import simulate
from fedopt.engine.base import DenseUpdates
from fedopt.flower.client_app import client_app
from fedopt.flower.in_process import InProcessArray, TrainedModel
from fedopt.flower.vectorized import FlowerMessages
from fedopt.flower.virtual_grid import VirtualGrid
from fedopt.types import ParamSpec
from fedopt.yaml_writer import to_yaml

SPEC = ParamSpec(("w", "b"), ((2, 3), (2,)))
UPDATES = DenseUpdates(torch.arange(16.0).view(2, 8))
START = torch.full((8,), 100.0)


def chosen() -> Any:
    return scenario(
        client={"kind": "sgd", "lr": 0.1, "batch_size": 20, "epochs": 1},
        aggregator={"kind": "fedavg", "weights": "num_examples"},
    )


def run(strategy: Any, cohort_call: Any, path: Path) -> dict[str, np.ndarray]:
    path.write_text(to_yaml(chosen().resolved()))
    random.seed(1)  # Flower's strategies draw their cohorts from it
    grid = VirtualGrid(client_app(path), 3, cohort_call=cohort_call)
    result = strategy.start(grid=grid, initial_arrays=FlowerMessages(chosen()).arrays(), num_rounds=3)
    return {name: array.numpy() for name, array in result.arrays.items()}


def test_our_client_app_under_flowers_fedavg_equals_our_own_simulation(tmp_path: Path) -> None:
    """Flower's FedAvg with our vectorised client work = fedopt's FedAvg: two independent servers, one answer."""
    theirs = simulate(chosen(), tmp_path / "simulated").parameters()
    for cohort_call in (FlowerMessages(chosen()).answer, FlowerMessages(chosen(), in_process=True).answer, None):
        found = run(FedAvg(fraction_evaluate=0.0), cohort_call, tmp_path / "packed.yaml")
        for name, tensor in theirs.items():
            np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAdam(fraction_evaluate=0.0),
        lambda: FedMedian(fraction_evaluate=0.0),
        lambda: Krum(),
        lambda: QFedAvg(0.1),
    ],
    ids=["FedAdam", "FedMedian", "Krum", "QFedAvg"],
)
def test_flowers_strategies_do_the_same_with_arrays_that_stay_in_the_process(make: Any, tmp_path: Path) -> None:
    lazy, plain = (
        run(make(), FlowerMessages(chosen(), in_process=stays).answer, tmp_path / "packed.yaml")
        for stays in (True, False)
    )
    for name, values in plain.items():
        np.testing.assert_array_equal(lazy[name], values)


def test_an_array_in_process_is_flowers_array_to_everybody_else() -> None:
    values = np.array([[108.0, 109.0, 110.0], [111.0, 112.0, 113.0]], np.float32)
    lazy, plain = TrainedModel(UPDATES, 1, START, SPEC).record()["w"], Array(values)
    assert isinstance(lazy, InProcessArray) and lazy == plain and plain == lazy and lazy != Array(values + 1)
    assert (lazy.dtype, lazy.shape, lazy.stype, lazy.data) == (plain.dtype, plain.shape, plain.stype, plain.data)
    assert lazy.object_id == plain.object_id and list(lazy.children) == list(plain.children)
    assert Array.inflate(lazy.deflate(), lazy.children) == plain
    for copied in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy)), ArrayRecord({"w": lazy})["w"]):
        assert type(copied) is Array and copied == plain
    lazy.data = Array(values + 1).data
    assert np.array_equal(lazy.numpy(), values + 1) and lazy.object_id == Array(values + 1).object_id


def test_an_array_in_process_gives_every_caller_values_of_their_own() -> None:
    record = TrainedModel(UPDATES, 0, START, SPEC).record()
    assert list(record) == ["w", "b"] and record["b"].shape == (2,)
    first, again, bias = record["w"].numpy(), record["w"].numpy(), record["b"].numpy()
    first[:] = bias[:] = -1.0  # strategies may work in place
    assert np.array_equal(again.reshape(-1), 100.0 + np.arange(6)) and again.dtype == np.float32
    assert record["b"].numpy().tolist() == [106.0, 107.0] and np.array_equal(record["w"].numpy(), again)
    assert START[0] == 100.0 and UPDATES.values[0, 0] == 0.0


def test_evaluation_of_many_clients_and_models_at_once_is_that_of_one_after_the_other() -> None:
    ours = FlowerMessages(chosen())
    models = [ours.arrays(), ours.arrays(ours.engine.initial_parameters() + 0.1)]
    kinds = ["evaluate", "train", "evaluate", "evaluate"]
    clients = [2, 0, 0, 1]
    messages = [
        Message(
            RecordDict({"arrays": models[i % 2], "config": ConfigRecord({"server-round": 1})}), 1 + clients[i], kind
        )
        for i, kind in enumerate(kinds)
    ]
    together = ours.answer(messages, clients, [0] * 4)
    for message, client, kind, reply in zip(messages, clients, kinds, together, strict=True):
        alone = ours.answer([message], [client], [0])[0].content["metrics"]
        assert reply.metadata.src_node_id == 1 + client and reply.content["metrics"]["num-examples"] > 0
        assert dict(reply.content["metrics"]) == pytest.approx(dict(alone), rel=1e-5)
        assert ("loss" in alone) == (kind == "evaluate")
    losses = [reply.content["metrics"]["loss"] for reply, kind in zip(together, kinds, strict=True) if kind != "train"]
    assert len(set(losses)) == 3
