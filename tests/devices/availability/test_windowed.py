"""Availability drawn per window."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from fedopt.devices._windows import Windows
from fedopt.devices.availability.bernoulli import Bernoulli
from fedopt.devices.availability.data_size import DataSize
from fedopt.devices.availability.diurnal import Diurnal
from fedopt.devices.availability.label import Label
from fedopt.devices.availability.lognormal import Lognormal
from fedopt.devices.availability.markov import Markov

LABELS = (np.array([[0, 4], [2, 2], [4, 4]]), np.array([5, 1, 1]))


def shares(model, fleet_, windows: int, window_s: float = 1.0) -> np.ndarray:
    """Fraction of windows in which each client is there ``[num_clients]``."""
    bound, everybody = model.bind(fleet_), np.arange(fleet_.num_clients)
    return np.mean([bound.available(everybody, window_s * (k + 0.5)) for k in range(windows)], axis=0)


def assert_shares(found: np.ndarray, expected, windows: int) -> None:
    expected = np.asarray(expected)
    error = np.sqrt(np.maximum(expected * (1 - expected), 1e-12) / windows)
    assert np.all(np.abs(found - expected) <= 4 * error), (found, expected)


def test_windows_are_exact():
    windows = Windows(0.1)
    assert [windows.index(Fraction(k, 10)) for k in range(5)] == [0, 1, 2, 3, 4]
    assert windows.after(Fraction(3, 10)) == Fraction(4, 10)


def test_bernoulli_share_and_windows(fleet, check_mean):
    model = Bernoulli(missing=0.4, window_s=2.0)
    check_mean(shares(model, fleet(2000), 3, 2.0), 0.6)
    bound, everybody = model.bind(fleet(100)), np.arange(100)
    at = [bound.available(everybody, time).tolist() for time in (0.0, 1.99, 2.0)]
    assert at[0] == at[1] != at[2]
    assert bound.next_change(1.5) == 2


def test_bernoulli_without_missing_is_everybody(fleet):
    assert shares(Bernoulli(missing=0.0), fleet(50), 20).min() == 1


def test_lognormal_shares(fleet):
    sizes = fleet(400)
    found = shares(Lognormal(spread=0.5), sizes, 300)
    assert found.max() == 1.0
    logs = np.log(found) - np.log(found).mean()
    spread = math.log(2)
    assert abs(logs.std() - spread) < 4 * spread / math.sqrt(800) + 0.03


def test_diurnal_follows_the_sine(fleet, check_mean):
    bound, everybody = Diurnal(spread=0.0, hour_s=10.0).bind(fleet(4000)), np.arange(4000)
    for hour in (0, 6, 17, 23, 30):
        expected = 0.4 * math.sin(2 * math.pi * (hour % 24) / 23) + 0.5
        check_mean(bound.available(everybody, 10.0 * hour + 5), expected)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("lowest", [0.2, 0.6, 1.0]), ("count", [1.0, 0.2 + 0.8 / 5, 0.2 + 0.8 / 5])],
)
def test_label_modes(fleet, mode, expected):
    model = Label(mode=mode, beta=0.8)
    assert_shares(shares(model, fleet(3, classes=LABELS), 600), expected, 600)


def test_label_count_is_a_share_of_all_classes(fleet, check_mean):
    """One of two classes is half of them."""
    clients = 3000
    labels = (np.tile([[0, 0], [1, 1]], (clients // 2, 1)), np.ones(clients))
    bound = Label(mode="count", beta=0.8).bind(fleet(clients, classes=labels))
    check_mean(bound.available(np.arange(clients), 0.0), 0.6)


def test_label_cycle(fleet):
    """Client 0 holds labels 0..4: always. Client 1 only 2: when (1 + t) / 24 = 1/2. Client 2 the last: at the end."""
    bound = Label(mode="cycle", beta=1.0).bind(fleet(3, classes=LABELS))
    there = np.array([bound.available(np.arange(3), float(t)) for t in range(48)])
    assert there[:, 0].all()
    assert np.flatnonzero(there[:, 1]).tolist() == [11, 35]
    assert np.flatnonzero(there[:, 2]).tolist() == [23, 47]


def test_labels_are_needed(fleet):
    with pytest.raises(ValueError, match="needs class labels; use bernoulli"):
        Label().bind(fleet(3))
    with pytest.raises(ValueError, match="two classes or more, the highest label is 0"):
        Label().bind(fleet(2, classes=(np.zeros((2, 2), dtype=int), np.ones(2))))


@pytest.mark.parametrize(("favours", "expected"), [("more", [0.1, 0.4, 1.0]), ("less", [1.0, 0.25, 0.1])])
def test_data_size(fleet, favours, expected):
    model = DataSize(favours=favours, beta=1.0)
    assert_shares(shares(model, fleet(3, num_examples=[10, 40, 100]), 600), expected, 600)


@pytest.mark.parametrize("stays", ["geometric", "exponential"])
def test_markov_stationary_share_at_any_time(fleet, check_mean, stays):
    model = Markov(mean_on_s=40.0, mean_off_s=120.0, window_s=10.0, stays=stays)
    for time in (0.0, 5000.0):
        check_mean(model.bind(fleet(3000)).available(np.arange(3000), time), 0.25)


@pytest.mark.parametrize(
    ("stays", "leave", "come"),
    [
        ("geometric", 0.25, 1 / 12),
        ("exponential", 0.75 * (1 - math.exp(-1 / 3)), 0.25 * (1 - math.exp(-1 / 3))),
    ],
)
def test_markov_stays(fleet, check_mean, stays, leave, come):
    bound = Markov(mean_on_s=40.0, mean_off_s=120.0, window_s=10.0, stays=stays).bind(fleet(800))
    states = np.array([bound.available(np.arange(800), 10.0 * k) for k in range(20)])
    check_mean(~states[1:][states[:-1]], leave)
    check_mean(states[1:][~states[:-1]], come)


def test_markov_looked_up_out_of_order(fleet):
    forward, backward = Markov().bind(fleet(30)), Markov().bind(fleet(30))
    times = [30.0 * k for k in range(25)]
    states = [forward.available(np.arange(30), time).tolist() for time in times]
    assert [backward.available(np.arange(30), time).tolist() for time in times[::-1]] == states[::-1]
    assert any(a != b for a, b in pairwise(states))


def test_markov_windows_must_be_shorter_than_stays():
    with pytest.raises(ValueError, match=r"window_s must be < the shorter mean stay 20.0 s, got 30.0"):
        Markov(mean_on_s=20.0)
