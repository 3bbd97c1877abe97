"""A reply that may have left a client is paid for: cancelled, expired, cut off, in flight at the end, sent twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from faults import DuplicatingGrid, faulty
from virtual_deployment import deploy, scenario, taking, virtual_grid

from fedopt.flower import server_app
from fedopt.flower.driver import GridDriver

LOCAL = {
    "unit": "client",
    "trust": "local",
    "relation": "replace_one",
    "mechanism": {"kind": "local_gaussian", "clipping_norm": 0.5, "noise_multiplier": 2.0},
    "delta": 1e-5,
}
NEVER = 1e6


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> list[GridDriver]:
    """The drivers of the deployments of a test, in order."""
    made: list[GridDriver] = []

    class Kept(GridDriver):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(server_app, "GridDriver", Kept)
    return made


def charged(driver: GridDriver) -> dict[int, int]:
    """Client -> noisy replies it has paid for."""
    tally = driver.server.state.tally
    assert len(tally.events) == 1
    return {client: count for client, count in sorted(tally.participations[0].items()) if count}


def sent(grid: Any) -> Callable[[], dict[int, int]]:
    """Counts the training messages that a grid takes, by client."""
    counts: dict[int, int] = {}
    push = grid.push_messages

    def counting(messages: Any) -> Any:
        batch = list(messages)
        for message in batch:
            if message.metadata.message_type == "train":
                client = json.loads(message.content.config_records["fedopt.facts"]["json"])["client"]
                counts[client] = counts.get(client, 0) + 1
        return push(batch)

    grid.push_messages = counting
    return lambda: dict(sorted(counts.items()))


@pytest.mark.parametrize(
    "changes, config",
    [
        ({"sampling": {"kind": "all", "deadline_s": 3.0}}, {}),
        ({"sampling": {"kind": "fixed", "cohort_size": 2, "over_selection": 1.5}}, {}),
        ({}, {"reply-s": 10.0}),
        ({"aggregator": {"kind": "fedbuff", "buffer_size": 2}}, {}),
        ({"aggregator": {"kind": "fedasync"}}, {}),
    ],
    ids=["past the deadline", "over-selected", "expired", "in flight at the end", "still out under fedasync"],
)
def test_a_task_without_an_answer_is_paid_for(
    changes: dict[str, Any], config: dict[str, Any], tmp_path: Path, drivers: list[GridDriver]
) -> None:
    """Client 2 never answers; everybody pays for what they were asked: nothing more, nothing less."""
    chosen = scenario(privacy={**LOCAL, "max_participations": 20}, devices=taking(tmp_path, 1.0, 1.0, NEVER), **changes)
    grid = virtual_grid(chosen, tmp_path)
    counted = sent(grid)
    deploy(chosen, tmp_path, grid, **config)
    assert charged(drivers[0]) == counted()
    assert counted()[2] >= 1 and len(set(counted().values())) >= (2 if "aggregator" in changes else 1)


def test_an_error_and_a_node_that_leaves_are_paid_for(tmp_path: Path, drivers: list[GridDriver]) -> None:
    chosen = scenario(privacy=LOCAL, devices=taking(tmp_path, 1.0, 1.0, NEVER), run={"server_steps": 2})
    grid = virtual_grid(chosen, tmp_path, faulty("raises"))
    counted, ids = sent(grid), grid.get_node_ids
    grid.get_node_ids = lambda: [i for i in ids() if i != 3 or grid.time_s < 8.0]  # type: ignore[method-assign]
    summary = deploy(chosen, tmp_path, grid)
    assert any("left" in warning for warning in summary["warnings"])
    assert charged(drivers[0]) == counted() == {0: 2, 1: 2, 2: 1}


def test_replies_that_come_twice_are_paid_for_once(tmp_path: Path, drivers: list[GridDriver]) -> None:
    chosen = scenario(privacy=LOCAL)
    deploy(chosen, tmp_path, DuplicatingGrid(virtual_grid(chosen, tmp_path)))
    assert charged(drivers[0]) == {0: 3, 1: 3, 2: 3}


def test_a_restart_pays_for_what_was_under_way(tmp_path: Path, drivers: list[GridDriver]) -> None:
    """Client 2 was given up on before the restart, everybody was at work at its moment."""
    chosen = scenario(
        privacy={**LOCAL, "max_participations": 9},
        devices=taking(tmp_path, 1.0, 1.0, NEVER),
        sampling={"kind": "all", "deadline_s": 3.0},
    )
    grid = virtual_grid(chosen, tmp_path)
    counted, pull = sent(grid), grid.pull_messages

    def cut_off(ids: Any) -> Any:
        if counted().get(0, 0) == 2:
            raise ConnectionError("the SuperLink is gone")
        return pull(ids)

    grid.pull_messages = cut_off  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        deploy(chosen, tmp_path, grid)
    again = virtual_grid(chosen, tmp_path)
    more = sent(again)
    deploy(chosen, tmp_path, again, resume=True)
    assert charged(drivers[1]) == {client: count + more()[client] for client, count in counted().items()}


def test_a_client_that_cannot_pay_is_not_asked_again(tmp_path: Path, drivers: list[GridDriver]) -> None:
    """Replies that always come too late still use up a budget: the run stops before the client would exceed it."""
    private = {**LOCAL, "max_epsilon": 3.0}
    slow = taking(tmp_path, 1.0, 1.0, NEVER)
    chosen = scenario(
        privacy=private, devices=slow, sampling={"kind": "all", "deadline_s": 3.0}, run={"server_steps": 50}
    )
    grid = virtual_grid(chosen, tmp_path)
    counted = sent(grid)
    summary = deploy(chosen, tmp_path, grid)
    assert summary["status"] == "stopped" and summary["epsilon"] <= 3.0
    assert charged(drivers[0]) == counted() and 1 <= counted()[2] < 50
