"""Flower's own strategies, unmodified, on the virtual clock."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)

from fedopt.flower.simulate_app import simulate_flower_app
from fedopt.flower.virtual_grid import VirtualGrid
from fedopt.scenario import from_mapping

CLIENT = ClientApp()


@CLIENT.train()
def train(message: Message, context: Context) -> Message:
    """Half way from the model to the node's number, with a little noise of NumPy's generator."""
    goal = float(context.node_config["partition-id"])
    model = message.content["arrays"]["w"].numpy()
    moved = model + 0.5 * (goal - model) + 1e-3 * np.random.normal(size=model.shape).astype(np.float32)
    content = {"arrays": ArrayRecord([moved]), "metrics": MetricRecord({"num-examples": 10, "goal": goal})}
    content["arrays"] = ArrayRecord({"w": next(iter(content["arrays"].values()))})
    return Message(RecordDict(content), reply_to=message)


@CLIENT.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"loss": 1.0, "num-examples": 10})}), reply_to=message)


def devices(tmp_path: Path, seconds: list[float], **more: Any) -> Any:
    path = tmp_path / "times.csv"
    path.write_text("client,compute_s\n" + "".join(f"{i},{s}\n" for i, s in enumerate(seconds)))
    compute = {"kind": "trace", "path": str(path), "assignment": "by_id"}
    return from_mapping(
        {
            "data": {"kind": "synthetic"},
            "model": {"kind": "logistic_regression"},
            "client": {"kind": "sgd"},
            "devices": {"compute": compute, **more},
            "run": {"server_steps": 1},
        }
    ).devices


def run(strategy: Any, grid: VirtualGrid, rounds: int = 3) -> np.ndarray:
    app = ServerApp()
    found: list[Any] = []

    @app.main()
    def main(grid: Any, context: Context) -> None:
        start = ArrayRecord({"w": next(iter(ArrayRecord([np.zeros(4, np.float32)]).values()))})
        found.append(strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds))

    random.seed(1)
    app(grid, Context(1, 0, {}, RecordDict(), {}))
    return np.asarray(found[0].arrays["w"].numpy())


class Farthest(FedAvg):
    """A strategy of a user's own: the model of the node with the largest number."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """One reply's model, and no metrics."""
        best = max(replies, key=lambda reply: reply.content["metrics"]["goal"])
        return best.content["arrays"], MetricRecord({"goal": best.content["metrics"]["goal"]})


@pytest.mark.parametrize(
    "strategy",
    [FedAvg, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedProx, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Farthest],
    ids=lambda s: s.__name__,
)
def test_built_in_strategies_run_and_repeat_themselves(strategy: Any, tmp_path: Path) -> None:
    models, times = [], []
    for _ in range(2):
        grid = VirtualGrid(CLIENT, 4, devices(tmp_path, [1.0, 2.0, 3.0, 5.0]), seed=7)
        options = {"proximal_mu": 0.1} if strategy is FedProx else {}
        models.append(run(strategy(fraction_evaluate=0.0, **options), grid))
        times.append(grid.time_s)
    assert np.array_equal(models[0], models[1]) and np.abs(models[0]).max() > 1e-3
    assert times == [15.0, 15.0]  # three rounds, each as long as the slowest node


def test_fedavg_has_the_answer_it_has_on_paper() -> None:
    grid = VirtualGrid(CLIENT, 4, seed=7)
    # Half way to the mean goal 1.5 in every round: 0.75, 1.125, 1.3125.
    np.testing.assert_allclose(run(FedAvg(fraction_evaluate=0.0), grid), 1.3125, atol=0.01)
    assert grid.counts == {"messages": 12, "replies": 12, "lost": 0, "failed": 0}


def test_drop_outs_are_error_replies_and_the_round_goes_on(tmp_path: Path) -> None:
    grid = VirtualGrid(CLIENT, 4, devices(tmp_path, [1.0, 1.0, 1.0, 1.0], dropout=0.3), seed=7)
    run(FedAvg(fraction_evaluate=0.0), grid, 10)
    assert 4 <= grid.counts["lost"] <= 20  # 12 expected of 40
    assert grid.counts["lost"] + grid.counts["replies"] == 40


def test_replies_come_in_order_of_arrival_until_the_timeout(tmp_path: Path) -> None:
    grid = VirtualGrid(CLIENT, 4, devices(tmp_path, [3.0, 1.0, 9.0, 1.0]), seed=0)
    arrays = ArrayRecord({"w": next(iter(ArrayRecord([np.zeros(4, np.float32)]).values()))})
    replies = grid.send_and_receive(
        [Message(RecordDict({"arrays": arrays}), node, "train") for node in (1, 2, 3, 4)], timeout=4.0
    )
    assert [reply.metadata.src_node_id for reply in replies] == [2, 4, 1] and grid.time_s == 4.0


def test_waiting_and_time_to_live_are_virtual(tmp_path: Path) -> None:
    grid = VirtualGrid(CLIENT, 2, devices(tmp_path, [1.0, 100.0]), seed=0)
    content = {"arrays": ArrayRecord([np.zeros(4, np.float32)])}
    content["arrays"] = ArrayRecord({"w": next(iter(content["arrays"].values()))})
    messages = [Message(RecordDict(dict(content)), node, "train", ttl=10.0) for node in (1, 2)]
    replies = list(grid.send_and_receive(messages[:1] + messages[1:], timeout=5.0))
    assert [r.metadata.src_node_id for r in replies] == [1] and grid.time_s == 5.0
    late = list(grid.pull_messages([m.metadata.message_id for m in messages]))
    assert len(late) == 1 and late[0].has_error() and "expired" in str(late[0].error.reason) and grid.time_s == 10.0


def test_a_raising_client_is_an_error_reply() -> None:
    app = ClientApp()

    @app.train()
    def broken(message: Message, context: Context) -> Message:
        raise RuntimeError("no")

    grid = VirtualGrid(app, 1)
    reply = next(iter(grid.send_and_receive([Message(RecordDict(), 1, "train")])))
    assert reply.has_error() and grid.counts["failed"] == 1


def test_what_was_sent_is_not_changed_afterwards() -> None:
    """By the server, which uses its records again, or by another node."""
    app, seen = ClientApp(), []

    @app.train()
    def look(message: Message, context: Context) -> Message:
        config, arrays = message.content["config"], message.content["arrays"]
        seen.append((config["round"], list(arrays)))
        config["round"], arrays["mine"] = 9, next(iter(arrays.values()))
        del message.content["config"]
        return Message(RecordDict(), reply_to=message)

    grid = VirtualGrid(app, 2)
    content = RecordDict({"config": ConfigRecord({"round": 1}), "arrays": ArrayRecord([np.zeros(2)])})
    sent = grid.push_messages([Message(content, node, "train") for node in (1, 2)])
    content["config"]["round"] = 2
    content["arrays"]["more"] = next(iter(content["arrays"].values()))
    assert not any(reply.has_error() for reply in grid.pull_messages(sent))
    assert seen == [(1, ["0"]), (1, ["0"])]


def test_a_flower_app_runs_from_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "app" / "tinyapp"
    folder.mkdir(parents=True)
    (tmp_path / "app" / "pyproject.toml").write_text(
        '[project]\nname = "tinyapp"\nversion = "1"\n[tool.flwr.app]\npublisher = "me"\n'
        '[tool.flwr.app.components]\nserverapp = "tinyapp.apps:server"\nclientapp = "tinyapp.apps:client"\n'
        "[tool.flwr.app.config]\nrounds = 2\n"
    )
    (folder / "__init__.py").write_text("")
    (folder / "apps.py").write_text(
        "from flwr.app import Message, RecordDict\nfrom flwr.clientapp import ClientApp\n"
        "from flwr.serverapp import ServerApp\nserver, client = ServerApp(), ClientApp()\n"
        "@client.train()\ndef train(message, context):\n    return Message(RecordDict(), reply_to=message)\n"
        "@server.main()\ndef main(grid, context):\n"
        "    for _ in range(context.run_config['rounds']):\n"
        "        sent = [Message(RecordDict(), node, 'train') for node in grid.get_node_ids()]\n"
        "        assert len(list(grid.send_and_receive(sent))) == 5\n"
    )
    done = simulate_flower_app(
        tmp_path / "app", 5, devices(tmp_path, [1.0, 1.0, 1.0, 1.0, 4.0]), run_config={"rounds": 3}
    )
    assert done.time_s == 12.0 and done.counts["replies"] == 15
    with pytest.raises(ValueError, match="unknown run configuration"):
        simulate_flower_app(tmp_path / "app", 5, run_config={"round": 3})
    with pytest.raises(FileNotFoundError, match=r"no pyproject.toml"):
        simulate_flower_app(tmp_path, 5)
