"""Real SuperLinks and SuperNodes for tests: small scenarios, client apps that misbehave, faults while running."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virtual_deployment import scenario

from fedopt.api import Run
from fedopt.flower.deploy import follow
from fedopt.flower.export import export_app, package_name
from fedopt.flower.processes import LocalFederation
from fedopt.scenario import Scenario

PATIENT: dict[str, Any] = {"poll-s": 0.2, "wait-s": 480.0, "reply-s": 240.0, "replay": False}

_FAULTY = '''\
"""A client that misbehaves."""

from pathlib import Path

from flwr.clientapp import ClientApp

from fedopt.flower.client_app import client_app
from {package}.faults import faulty

inner = client_app(Path(__file__).with_name("scenario.yaml"))
answer = faulty("{kind}")(inner)
app = ClientApp()


@app.query()
def hello(message, context):
    return inner(message, context)


@app.train()
def train(message, context):
    return answer(message, context)
'''


_TWICE = '''\
"""A server that hears everything twice."""

from pathlib import Path

from flwr.serverapp import ServerApp

from fedopt.flower.server_app import run_deployment
from fedopt.scenario import load
from {package}.faults import DuplicatingGrid

app = ServerApp()


@app.main()
def main(grid, context):
    scenario = load(Path(__file__).with_name("scenario.yaml"))
    run_deployment(scenario, DuplicatingGrid(grid), context.run_config)
'''


def short(clients: int = 2, steps: int = 2, **changes: object) -> Scenario:
    """A scenario of few steps."""
    return scenario(clients, run={"server_steps": steps, "evaluate_every": 1, "evaluate_clients": "none"}, **changes)


def deploy_real(
    chosen: Scenario,
    folder: Path,
    nodes: int = 2,
    fault: str | None = None,
    during: Callable[[LocalFederation, Path], None] | None = None,
    warm_start: bool = True,
    **config: Any,
) -> Run:
    """Deploy on real processes.

    Args:
        chosen: what to run.
        folder: gets the app and the run directory ``run``.
        nodes: SuperNodes.
        fault: name of a fault of ``faults.faulty`` for client 0, or ``duplicates``.
        during: called in a thread with the federation and the run directory, to break something.
        warm_start: of the federation.
        config: run configuration, over patient defaults.
    """
    app, directory = export_app(chosen, folder / "app"), folder / "run"
    if fault is not None:
        package = package_name(chosen.name)
        shutil.copy(Path(__file__).with_name("faults.py"), app / package / "faults.py")
        side, text = ("server", _TWICE) if fault == "duplicates" else ("client", _FAULTY)
        (app / package / f"{side}.py").write_text(text.format(package=package, kind=fault))
    directory.mkdir(parents=True, exist_ok=True)
    with LocalFederation(nodes, directory / "logs", warm_start=warm_start) as federation:
        federation.submit(app, {"out": str(directory), **PATIENT, **config})
        if during is not None:
            threading.Thread(target=during, args=(federation, directory), daemon=True).start()
        follow(federation, directory, chosen, quiet=True)
    return Run(directory)


def wait_for_step(directory: Path, step: int, seconds: float = 400.0) -> None:
    """Wait until a run has made a step."""
    end = time.monotonic() + seconds
    path = directory / "rounds.jsonl"
    while time.monotonic() < end:
        if path.exists() and any(json.loads(line)["step"] >= step for line in path.read_text().splitlines()):
            return
        time.sleep(0.2)
    raise TimeoutError(f"step {step} was not reached within {seconds:g} s")
