"""Everything a report needs, read once from a run directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fedopt.runlog import RunLogError, read_clients, read_rounds, read_summary, read_updates

VIRTUAL_TIME = "virtual time"


@dataclass(frozen=True)
class RunData:
    """A run directory in memory.

    Args:
        directory: where it was read.
        summary: ``summary.json``.
        rounds, updates, clients: the tables.
        scenario: text of ``scenario.yaml``, or empty.
        privacy: ``privacy.json``, or None for a run without privacy.
    """

    directory: Path
    summary: dict[str, Any]
    rounds: pa.Table
    updates: pa.Table
    clients: pa.Table
    scenario: str
    privacy: dict[str, Any] | None

    def round_column(self, name: str) -> list[Any]:
        """One column of the rounds; empty values are None."""
        values: list[Any] = self.rounds[name].to_pylist()
        return values

    def update_numbers(self, name: str) -> np.ndarray:
        """One numeric column of the updates as float64 ``[rows]``; empty values are NaN."""
        return np.asarray(self.updates[name].to_numpy(), dtype=np.float64)

    @cached_property
    def statuses(self) -> np.ndarray:
        """Status of every update ``[rows]``."""
        return np.asarray(self.updates["status"].to_numpy(zero_copy_only=False), dtype=object)

    @property
    def metric_name(self) -> str:
        """Name of the task's metric, or "metric" while nothing was evaluated."""
        return str(self.summary.get("metric_name") or "metric")

    @property
    def is_black_box(self) -> bool:
        """Whether clients had functions instead of examples: the metric is their mean, and nothing was held out."""
        return self.metric_name == "objective"

    @cached_property
    def takes_time(self) -> bool:
        """Whether anything in the run took time on its clock; without device models nothing does."""
        return any(self.round_column("time_s"))

    @property
    def is_private(self) -> bool:
        """Whether the run had a privacy mechanism."""
        return self.privacy is not None

    @property
    def clock(self) -> str:
        """What the run's times are."""
        return str(self.summary.get("clock", VIRTUAL_TIME))

    @cached_property
    def total_bytes(self) -> list[int]:
        """Bytes both ways after every round (cumulative)."""
        pairs = zip(self.round_column("uplink_bytes"), self.round_column("downlink_bytes"), strict=True)
        return [up + down for up, down in pairs]


def load_run(directory: Path) -> RunData:
    """Read a run directory, finished or not.

    Raises:
        RunLogError: it holds no run, or a file in it cannot be read.
    """
    scenario = directory / "scenario.yaml"
    return RunData(
        directory=directory,
        summary=read_summary(directory),
        rounds=read_rounds(directory),
        updates=read_updates(directory),
        clients=read_clients(directory),
        scenario=scenario.read_text("utf-8") if scenario.exists() else "",
        privacy=_privacy(directory),
    )


def _privacy(directory: Path) -> dict[str, Any] | None:
    """``privacy.json`` with ``audit.json`` under ``audit``, where there is one."""
    found, audit = _object(directory / "privacy.json"), _object(directory / "audit.json")
    return found if found is None or audit is None else {**found, "audit": audit}


def _object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunLogError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise RunLogError(f"{path} must hold an object, got {type(found).__name__}")
    return found
