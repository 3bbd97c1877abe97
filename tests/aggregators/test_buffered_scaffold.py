"""Buffered SCAFFOLD in whole runs: its synchronous limit, its control variate, and what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedopt.aggregators.buffered_scaffold import BufferedScaffold
from fedopt.scenario import from_mapping
from fedopt.simulation.session import Session
from scenarios import small

WORK = {"kind": "scaffold", "lr": 0.1, "batch_size": 20, "epochs": 1}


def end(directory: Path, scenario: Any) -> Session:
    session = Session(scenario, directory, quiet=True)
    session.run()
    return session


def test_equal_durations_and_a_buffer_of_everybody_are_scaffolds_rounds(tmp_path: Path) -> None:
    equal: dict[str, Any] = {
        "client": WORK, "sampling": {"kind": "all"}, "devices": {"compute": {"kind": "ladder", "slowdown_percent": 0}}
    }  # fmt: skip
    buffered = end(tmp_path / "a", small(**equal, aggregator={"kind": "buffered_scaffold", "buffer_size": 12}))
    rounds = end(tmp_path / "b", small(**equal, aggregator={"kind": "scaffold"}))
    for one, other in zip(buffered.parts.server.state.method, rounds.parts.server.state.method, strict=True):
        assert torch.equal(one, other)


def test_both_denominators_are_constants_also_where_a_reply_fails(drive: Any) -> None:
    """Two of a buffer of three are usable, of a population of four: thirds of the model, quarters of the control."""
    method, two = BufferedScaffold(buffer_size=3), drive.vector(6.0, 2.0)[:, None]
    state = method.init(drive.vector(1.0), drive.public)
    state = drive.step(method, state, [(3.0,), (6.0,)], control=two)
    assert (state.params.item(), state.control.item()) == (1 + 9 / 3, 8 / 4)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_control_is_the_mean_of_the_clients_controls_with_stale_and_lost_replies(
    tmp_path: Path, dropout: float
) -> None:
    scenario = small(
        client=WORK,
        sampling={"kind": "uniform", "concurrency": 8},
        aggregator={"kind": "buffered_scaffold", "buffer_size": 3},
        devices__dropout=dropout,
        run__server_steps=25,
    )
    parts = end(tmp_path / "run", scenario).parts
    controls = [parts.computation.states.get(client)["control"] for client in range(12)]
    server = parts.server.state.method.control
    assert max(control.abs().max() for control in controls) > 0.01
    torch.testing.assert_close(server, torch.stack(controls).mean(0), rtol=1e-4, atol=1e-6)


def test_it_removes_client_drift_where_buffered_averaging_does_not(tmp_path: Path) -> None:
    centers, curvatures = (0.0, 2.0, 4.0, 10.0), (1.0, 0.5, 2.0, 1.5)
    optimum = 4.8  # sum of curvature times centre, 24, over the sum of curvatures, 5

    def distance(client: str, aggregator: str) -> float:
        scenario = {
            "name": aggregator,
            "data": {"kind": "quadratics", "clients": 4, "centers": centers, "curvatures": curvatures},
            "model": {"kind": "point"},
            "client": {"kind": client, "lr": 0.05, "steps": 10},
            "devices": {"compute": {"kind": "ladder", "slowdown_percent": 0}},
            "sampling": {"kind": "uniform", "concurrency": 3},
            "aggregator": {"kind": aggregator, "buffer_size": 2, "server_lr": 0.2},
            "run": {"server_steps": 800, "evaluate_every": 800},
        }
        state = end(tmp_path / aggregator, from_mapping(scenario)).parts.server.state.method
        return abs(float(state.params) - optimum)

    assert distance("scaffold", "buffered_scaffold") < 1e-3
    assert distance("sgd", "fedbuff") > 0.05
