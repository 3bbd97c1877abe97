"""When a task ends on the clock, and when its reply is lost."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from schedules import devices
from scipy.stats import kstest

from fedopt.devices.availability.trace import Trace
from fedopt.devices.base import Fleet
from fedopt.devices.compute.constant import Constant
from fedopt.devices.network.bandwidth import Bandwidth
from fedopt.simulation.fleet import DeviceClock

SECOND = 10**9


def clock(seconds: str, **options: Any) -> DeviceClock:
    made = devices(Constant(seconds=(seconds,)), **options)
    return DeviceClock(made, Fleet(0, 4000, np.ones(4000, dtype=np.int64)))


def ends(made: DeviceClock, now: int = 0) -> list[tuple[int, str | None]]:
    return [made.outcome(now, client, 0, 1, 1, 0, 0) for client in range(4000)]


def test_a_task_is_download_work_and_upload() -> None:
    made = clock("2", network=Bandwidth(download_mbit_s=8.0, upload_mbit_s=4.0, latency_s=0.25))
    assert made.outcome(5 * SECOND, 0, 0, 1, 1, 10**6, 10**6) == (int((5 + 1.25 + 2 + 2.25) * SECOND), None)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_dropout_is_noticed_at_once_or_after_a_uniform_share_of_the_task(share: float) -> None:
    """The same tasks are lost either way; four standard errors, and 2/3 and 3/2 of the rate are told apart."""
    during = ends(clock("10", dropout=share), now=7)
    lost = np.array([why is not None for _, why in during])
    error = (share * (1 - share) / len(lost)) ** 0.5
    assert abs(lost.mean() - share) < 4 * error < abs(lost.mean() - 2 * share / 3)
    assert {end for end, why in during if why is None} == {7 + 10 * SECOND}
    shares = [(end - 7) / (10 * SECOND) for end, why in during if why is not None]
    assert kstest(shares, "uniform").pvalue > 1e-3 and {why for _, why in during} == {None, "dropped out"}
    before = ends(clock("10", dropout=share, dropout_phase="before"), now=7)
    assert [why is not None for _, why in before] == lost.tolist()
    assert {end for end, why in before if why is not None} == {7}


@pytest.mark.parametrize(
    ("seconds", "start", "why"),
    [("3", 1, None), ("3", 4, "went away before its reply was sent"), ("6", 4, None), ("1", 4, None)],
)
def test_an_interrupted_client_is_one_that_is_away_at_the_end(
    tmp_path: Path, seconds: str, start: int, why: str | None
) -> None:
    """There from 0 to 5 and from 9 to 20: being away in between loses nothing."""
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"0": {"active": [0, 9], "inactive": [5, 20], "finish_time": 20}}))
    made = clock(seconds, availability=Trace(path=str(path)), interrupt=True)
    assert made.outcome(start * SECOND, 0, 0, 1, 1, 0, 0) == ((start + int(seconds)) * SECOND, why)
    patient = clock(seconds, availability=Trace(path=str(path)))
    assert patient.outcome(start * SECOND, 0, 0, 1, 1, 0, 0) == ((start + int(seconds)) * SECOND, None)


def test_ticks_are_the_nearest_and_thirds_are_whole() -> None:
    made = clock("1/3")
    assert made.ticks_per_second == 3 * SECOND and made.outcome(0, 0, 0, 1, 1, 0, 0) == (SECOND, None)
    assert made.ticks(Fraction(1, 3)) == SECOND and made.seconds(SECOND) == Fraction(1, 3)
