"""``fedopt simulate --flower-app DIR``: an unmodified Flower app on the virtual clock."""

from __future__ import annotations

import importlib
import random
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedopt.flower import require_flwr
from fedopt.scenario import Devices, Scenario


@dataclass(frozen=True)
class FlowerRun:
    """What happened.

    Args:
        time_s: virtual seconds.
        wall_s: real seconds.
        counts: messages, replies, lost, failed.
    """

    time_s: float
    wall_s: float
    counts: dict[str, int]


def simulate_flower_app(
    directory: Path,
    num_nodes: int = 10,
    devices: Devices | None = None,
    seed: int = 0,
    run_config: Mapping[str, Any] | None = None,
) -> FlowerRun:
    """Run a Flower app's ServerApp and ClientApp, both unmodified, on virtual devices.

    Args:
        directory: holds ``pyproject.toml`` with ``[tool.flwr.app]``.
        num_nodes: nodes; partition-id counts from 0.
        devices: delays, availability and drop-outs.
        seed: of the devices and of every task.
        run_config: entries that differ from ``[tool.flwr.app.config]``.
    Raises:
        FileNotFoundError, ValueError: not a Flower app, or an unknown run configuration.
    """
    require_flwr()
    from flwr.app import Context, RecordDict

    from fedopt.flower.virtual_grid import VirtualGrid, seeded

    components, config = read_app(directory)
    unknown = set(run_config or {}) - set(config)
    if unknown:
        raise ValueError(f"{directory}: unknown run configuration {sorted(unknown)}; the app has {sorted(config)}")
    config |= run_config or {}
    began = time.perf_counter()
    with _importable(directory):
        server_app, client_app = (_load(components[side]) for side in ("serverapp", "clientapp"))
        ours = getattr(server_app, "fedopt_scenario", None)
        if ours is not None:  # its ServerApp keeps wall-clock time
            raise ValueError(f"{directory} is an exported scenario; it needs no app here: fedopt simulate {ours}")
        grid = VirtualGrid(client_app, num_nodes, devices, seed, config, cohort_call=_ours(client_app))
        with seeded(seed):
            random.seed(seed)  # Flower's strategies draw their cohorts from it
            server_app(grid, Context(1, 0, {}, RecordDict(), config))
    return FlowerRun(grid.time_s, time.perf_counter() - began, grid.counts)


def _ours(client_app: Any) -> Any:
    """Trains many messages at once where the ClientApp is ours and the server Flower's; else None."""
    path = getattr(client_app, "fedopt_scenario", None)
    if path is None:
        return None
    from fedopt.flower.vectorized import FlowerMessages
    from fedopt.scenario import load

    scenario: Scenario = load(path)
    return None if scenario.privacy is not None else FlowerMessages(scenario, in_process=True).answer


def read_app(directory: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(components, flat run configuration) of a Flower app.

    Raises:
        FileNotFoundError, ValueError: not a Flower app.
    """
    path = directory / "pyproject.toml"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is not a Flower app: it has no pyproject.toml")
    app = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("flwr", {}).get("app", {})
    components = app.get("components", {})
    if not {"serverapp", "clientapp"} <= set(components):
        raise ValueError(f"{path} names no serverapp and clientapp under [tool.flwr.app.components]")
    return components, dict(_flat(app.get("config", {})))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """The app's folder on the import path, and only inside the block."""
    entry = str(directory.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
