"""The ServerApp: the scenario's server over Flower's grid, writing the same run directory as a simulation."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedopt.data.base import ClientIndex, FederatedData
from fedopt.flower import own_modules
from fedopt.flower.driver import GridDriver
from fedopt.flower.federation import Federation
from fedopt.flower.grid_state import Pace
from fedopt.flower.rules import DeploymentRefused, clients_of, refusals, warnings_of, withheld
from fedopt.flower.sole_writer import sole_writer
from fedopt.flower.trace import TraceWriter
from fedopt.scenario import Scenario, load

NOISE_KEY = "noise.key"


def server_app(scenario: Path) -> ServerApp:
    """The ServerApp of a scenario.

    Args:
        scenario: file packed with the app.
    """
    own_modules.use()
    app = ServerApp()
    app.fedopt_scenario = scenario  # type: ignore[attr-defined]

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run_deployment(load(scenario), grid, context.run_config)

    return app


def run_deployment(
    scenario: Scenario,
    grid: Grid,
    config: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Run a scenario over a grid.

    Args:
        scenario: what to run.
        grid: Flower's grid, or one on the virtual clock.
        config: run configuration of the app; the keys are those of the exported ``pyproject.toml``.
        clock, sleep: seconds; replaced where time is virtual.
    Returns:
        The summary.
    Raises:
        DeploymentRefused: the scenario cannot be deployed.
        TimeoutError: too few nodes.
    """
    problems = refusals(scenario)
    if problems:
        raise DeploymentRefused("; ".join(problems))
    directory = _directory(scenario, config)
    notes: list[str] = []
    federation = Federation(grid, clients_of(scenario), scenario.content_hash(), notes.append, clock, sleep)
    federation.wait(float(config.get("wait-s", 120.0)), int(config.get("fewest-nodes", 1)))
    directory.mkdir(parents=True, exist_ok=True)
    with sole_writer(directory):
        return _run(scenario, directory, federation, notes, config, clock, sleep)


def _run(
    scenario: Scenario,
    directory: Path,
    federation: Federation,
    notes: list[str],
    config: Mapping[str, Any],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    """The run itself, over the nodes that are there."""
    from fedopt.privacy.system_noise import SystemNoise
    from fedopt.simulation.session import Session

    resume = bool(config.get("resume", False))
    trace = TraceWriter(directory, resume)
    pace = Pace(
        float(config.get("reply-s", 3600.0)), float(config.get("poll-s", 0.5)), float(config.get("idle-s", 300.0))
    )

    def make_driver(parts: Any, hooks: Any) -> GridDriver:
        federation.on_problem = hooks.on_failure
        if scenario.privacy is not None:
            # Who knows the seed knows who was drawn: amplification by sampling needs a secret one.
            parts.server.seed = secrets.randbits(62)
        return GridDriver(parts, hooks, federation.grid, federation, pace, clock, sleep, trace.add)

    session = Session(
        scenario,
        directory,
        data=_server_data(scenario, federation),
        make_driver=make_driver,
        noise=SystemNoise.from_file(directory / NOISE_KEY) if scenario.privacy is not None else None,
        withheld=withheld(scenario, bool(config.get("public-test", False))),
        clock="time",
        hold_rows=True,
    )
    session.warnings += [*warnings_of(scenario), *notes]
    try:
        summary = session.run(resume=resume)
    finally:
        trace.close()
    (directory / NOISE_KEY).unlink(missing_ok=True)
    if bool(config.get("replay", True)) and not hasattr(scenario.data, "load_node"):
        from fedopt.flower.trace import replay

        replay(scenario, directory)
    return summary


def _directory(scenario: Scenario, config: Mapping[str, Any]) -> Path:
    from fedopt.api import DEFAULT_OUT, new_run_directory

    wanted = str(config.get("out", ""))
    return Path(wanted) if wanted else new_run_directory(scenario, DEFAULT_OUT.absolute())


def _server_data(scenario: Scenario, federation: Federation) -> FederatedData:
    """What the server may hold: the scenario's data, or only a test set and public numbers of examples."""
    if not hasattr(scenario.data, "load_node"):
        return scenario.data.load(scenario.seed)
    data: FederatedData = scenario.data.load_server()  # type: ignore[attr-defined]
    if not federation.examples:
        return data
    declared = data.clients.sizes()
    counts = np.array([federation.examples.get(i, declared[i]) for i in range(len(declared))], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return replace(data, clients=ClientIndex(offsets, np.zeros(int(offsets[-1]), dtype=np.int64)))
