"""Recorded times, of computing and of transfers."""

from __future__ import annotations

import pandas as pd
import pytest

from fedopt.devices.compute.trace import Trace
from fedopt.devices.network.trace import Trace as NetworkTrace

ROWS = pd.DataFrame(
    {
        "client": [1, 0, 0, 1, 0],
        "task": [0, 1, 0, 1, 2],
        "compute_s": [10.0, 2.0, 1.0, 20.0, 6.0],
        "download_s": [0.1, 0.2, 0.3, 0.4, 0.5],
        "upload_s": [1.1, 1.2, 1.3, 1.4, 1.5],
    }
)


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path) -> str:
    path = tmp_path / f"trace.{request.param}"
    ROWS.to_csv(path, index=False) if request.param == "csv" else ROWS.to_parquet(path)
    return str(path)


def test_rows_come_in_task_order_and_start_again(path, fleet):
    bound = Trace(path=path).bind(fleet(3))
    assert [bound.seconds(0, task, 1, 1) for task in range(5)] == [1, 2, 6, 1, 2]
    assert [bound.seconds(1, task, 9, 9) for task in range(3)] == [10, 20, 10]
    assert bound.seconds(2, 1, 1, 1) == bound.seconds(0, 1, 1, 1), "client 2 reuses the first recorded one"
    assert bound.expected([1] * 3, 1) == [3.0, 15.0, 3.0]


def test_transfers_of_the_same_file(path, fleet):
    assert NetworkTrace(path=path, time_scale=10.0).bind(fleet(2)).seconds(0, 1, 10**9, 1) == pytest.approx((2, 12))


def test_by_id_needs_every_client(path, fleet):
    assert Trace(path=path, assignment="by_id").bind(fleet(2)).seconds(1, 0, 1, 1) == 10
    with pytest.raises(ValueError, match=r"no rows for 2 of 4 clients \(first: 2\); use assignment: cycle"):
        Trace(path=path, assignment="by_id").bind(fleet(4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client,task\n0,0\n", "lacks the column 'compute_s'; it has client, task"),
        ("client,compute_s\n", "has no rows"),
        ("client,compute_s\n0,1\n0,-2\n", r"row 2: compute_s must be >= 0 and finite, got -2.0"),
        ("client,compute_s\n0,1\n1,\n", "row 2: compute_s must be >= 0 and finite, got nan"),
    ],
)
def test_broken_files_say_where(tmp_path, fleet, text, message):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Trace(path=str(path)).bind(fleet(2))


@pytest.mark.parametrize(("path", "message"), [("", "path is empty"), ("nowhere.csv", "no file 'nowhere.csv'")])
def test_missing_files_say_what_to_give(path, message, fleet):
    with pytest.raises(ValueError, match=message):
        Trace(path=path).bind(fleet(1))
