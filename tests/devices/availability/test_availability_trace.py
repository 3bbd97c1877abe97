"""Recorded availability."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from fedopt.devices.availability.trace import Trace

RECORDS = {
    "0": {"active": [2, 6], "inactive": [4, 9], "finish_time": 10},
    "1": {"active": [0], "inactive": [1], "finish_time": 7},
    "2": {"active": [], "inactive": [], "finish_time": 5},
}


def by_definition(record: dict, time: float) -> bool:
    phase = time % record["finish_time"]
    return any(a <= phase <= b for a, b in zip(record["active"], record["inactive"], strict=True))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "behaviour.json"
    path.write_text(json.dumps(RECORDS))
    return str(path)


def test_active_as_defined(path, fleet):
    bound = Trace(path=path).bind(fleet(5))
    for time in np.arange(0, 40, 0.25):
        found = bound.available(np.array([0, 1, 2, 3, 4]), float(time))
        expected = [by_definition(RECORDS[str(client % 3)], time) for client in range(5)]
        assert found.tolist() == expected, time


def test_next_changes_are_the_recorded_ones(path, fleet):
    bound = Trace(path=path).bind(fleet(3))
    time, found = Fraction(0), []
    while time < 12:
        time = bound.next_change(time)
        found.append(time)
    assert found == [1, 2, 4, 5, 6, 7, 8, 9, 10, 12]


def test_by_id_needs_every_client(path, fleet):
    with pytest.raises(ValueError, match=r"no record for 2 of 5 clients \(first: 3\); use assignment: cycle"):
        Trace(path=path, assignment="by_id").bind(fleet(5))
    assert Trace(path=path, assignment="by_id").bind(fleet(3)).available(np.array([1]), 0.5).tolist() == [True]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"active": [1], "inactive": [], "finish_time": 3}, "1 active and 0 inactive times"),
        ({"active": [2], "inactive": [1], "finish_time": 3}, "must ascend"),
        ({"active": [1], "inactive": [2], "finish_time": 0}, "finish_time must be > 0, got 0.0"),
        ({"active": [1], "inactive": [2]}, "needs numbers active, inactive and finish_time"),
    ],
)
def test_broken_records_say_which(tmp_path, fleet, entry, message):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"17": entry}))
    with pytest.raises(ValueError, match=f"client 17: .*{message}"):
        Trace(path=str(path)).bind(fleet(1))


def test_missing_or_unreadable_file(tmp_path, fleet):
    with pytest.raises(ValueError, match=r"no file 'nowhere.json'"):
        Trace(path="nowhere.json").bind(fleet(1))
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(ValueError, match="is not JSON"):
        Trace(path=str(tmp_path / "text.json")).bind(fleet(1))
