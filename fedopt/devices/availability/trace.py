"""Recorded availability."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from fedopt.devices.base import AvailabilityModel, Fleet, Presence, Seconds


class Trace(AvailabilityModel):
    """Replays recorded availability from a JSON file in FedScale's format, over and over.

    The file maps a client to its lists ``active`` and ``inactive`` and its ``finish_time``, all in seconds. The client
    is there at time t if ``active[k] <= (t mod finish_time) <= inactive[k]`` for some k. With ``cycle`` client i uses
    the i-th record of the file (in file order), starting again after the last; with ``by_id`` the record with its
    number.

    Raises (when bound):
        ValueError: no such file, not this format, lists of different length or out of order, or a client is missing.

    References: FedScale (Lai et al., ICML 2022): 136 k users of an input-method app over a week, there while charging.
    """

    path: str = Field("", description='JSON file {"<client>": {"active": [..], "inactive": [..], "finish_time": ..}}')
    assignment: Literal["by_id", "cycle"] = Field(
        "cycle", description="client i replays record i by name, or the records are dealt out in turn"
    )

    def bind(self, fleet: Fleet) -> Presence:
        """Read the file for this fleet."""
        table = _read(self.path)
        records = {name: _record(self.path, name, entry) for name, entry in table.items()}
        if self.assignment == "cycle":
            return _Recorded(list(records.values()))
        missing = [client for client in range(fleet.num_clients) if str(client) not in records]
        if missing:
            raise ValueError(
                f"devices.availability: {self.path} has no record for {len(missing)} of {fleet.num_clients} clients "
                f"(first: {missing[0]}); use assignment: cycle to reuse the recorded ones"
            )
        return _Recorded([records[str(client)] for client in range(fleet.num_clients)])


class _Record(NamedTuple):
    active: np.ndarray  # [k] starts, ascending
    inactive: np.ndarray  # [k] ends
    finish_time: float


class _Recorded:
    def __init__(self, records: list[_Record]):
        self._active = np.concatenate([record.active for record in records])  # all records, one after the other
        self._inactive = np.concatenate([record.inactive for record in records])
        self._ends = np.cumsum([len(record.active) for record in records])
        self._finish = np.array([record.finish_time for record in records])
        points: dict[float, list[np.ndarray]] = {}
        for record in records:
            points.setdefault(record.finish_time, []).extend((record.active, record.inactive, np.zeros(1)))
        self._changes = {finish: np.unique(np.concatenate(lists)) for finish, lists in points.items()}

    def available(self, clients: np.ndarray, time: Seconds) -> np.ndarray:
        """Which of these clients are recorded as active at ``time``."""
        records = np.asarray(clients, dtype=np.int64) % len(self._ends)
        phase = float(time) % self._finish[records]
        first = np.where(records > 0, self._ends[records - 1], 0)
        low, high = first.copy(), self._ends[records].copy()
        while np.any(searching := low < high):  # bisection in every record at once: first start after the phase
            middle = np.minimum((low + high) // 2, len(self._active) - 1)
            started = self._active[middle] <= phase
            low = np.where(searching & started, middle + 1, low)
            high = np.where(searching & ~started, middle, high)
        latest = low - 1
        return (latest >= first) & (phase <= np.append(self._inactive, 0.0)[latest])

    def next_change(self, time: Seconds) -> Seconds:
        """Next recorded start or end of anybody, or the end of a record."""
        return min(_next(changes, finish, Fraction(time)) for finish, changes in self._changes.items())


def _next(changes: np.ndarray, finish_time: float, time: Fraction) -> Fraction:
    finish = Fraction(finish_time)
    start, phase = time // finish * finish, time % finish
    for at in changes[np.searchsorted(changes, float(phase), side="left") :]:
        if phase < Fraction(float(at)) < finish:
            return start + Fraction(float(at))
    return start + finish


def _read(path: str) -> dict[str, Any]:
    if not path or not Path(path).is_file():
        raise ValueError(f"devices.availability.path: no file {path!r}; give a JSON file in FedScale's format")
    try:
        table = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"devices.availability: {path} is not JSON: {error}") from error
    if not isinstance(table, dict) or not table:
        raise ValueError(f"devices.availability: {path} must hold an object with one entry per client")
    return table


def _record(path: str, name: str, entry: Any) -> _Record:
    where = f"devices.availability: {path}, client {name}"
    try:
        active = np.asarray(entry["active"], dtype=float)
        inactive = np.asarray(entry["inactive"], dtype=float)
        finish_time = float(entry["finish_time"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: needs numbers active, inactive and finish_time ({error!r})") from error
    if active.shape != inactive.shape or active.ndim != 1:
        raise ValueError(f"{where}: {active.size} active and {inactive.size} inactive times; there must be as many")
    if not (np.isfinite(finish_time) and finish_time > 0):
        raise ValueError(f"{where}: finish_time must be > 0, got {finish_time}")
    ordered = np.stack((active, inactive), axis=1).ravel()
    if not np.all(np.isfinite(ordered)) or np.any(np.diff(ordered) < 0):
        raise ValueError(f"{where}: times must ascend as active[0] <= inactive[0] <= active[1] <= ...")
    return _Record(active, inactive, finish_time)
