"""The whole deployment in one process: real ServerApp logic and ClientApp, with the grid on the virtual clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedopt.flower.client_app import client_app
from fedopt.flower.server_app import run_deployment
from fedopt.flower.virtual_grid import VirtualGrid
from fedopt.scenario import Scenario, from_mapping
from fedopt.yaml_writer import to_yaml


def scenario(clients: int = 3, **changes: Any) -> Scenario:
    """A small scenario whose client work takes milliseconds."""
    body: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "data": {"kind": "synthetic", "clients": clients, "public": ["num_examples"]},
        "model": {"kind": "logistic_regression"},
        "client": {"kind": "sgd", "lr": 0.1, "batch_size": 20, "steps": 2},
        "sampling": {"kind": "all"},
        "aggregator": {"kind": "fedavg"},
        "run": {"server_steps": 3, "evaluate_every": 1, "evaluate_clients": "none"},
        "engine": {"device": "cpu", "formulation": "loop"},
    }
    return from_mapping({**body, **changes})


def taking(folder: Path, *seconds: float) -> dict[str, Any]:
    """Devices whose tasks take these times, by client."""
    path = folder / "times.csv"
    path.write_text("client,compute_s\n" + "".join(f"{i},{s}\n" for i, s in enumerate(seconds)))
    return {"compute": {"kind": "trace", "path": str(path), "assignment": "by_id"}}


def virtual_grid(chosen: Scenario, folder: Path, app: Any = None, **options: Any) -> VirtualGrid:
    """A grid with one node per client and the scenario's devices."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "packed.yaml"
    path.write_text(to_yaml(chosen.resolved()))
    nodes = int(chosen.data.clients)  # type: ignore[attr-defined]
    made = app(client_app(path)) if app is not None else client_app(path)
    return VirtualGrid(made, nodes, chosen.devices, chosen.seed, jump=False, **options)


def deploy(chosen: Scenario, folder: Path, grid: Any = None, **config: Any) -> dict[str, Any]:
    """Deploy on a virtual grid.

    Returns:
        The summary; the run directory is ``folder / "run"``.
    """
    grid = grid or virtual_grid(chosen, folder)
    clock = getattr(grid, "inner", grid)
    settings = {"out": str(folder / "run"), "poll-s": 0.25, "replay": False, **config}
    return run_deployment(chosen, grid, settings, lambda: clock.time_s, clock.advance)
