"""Means, tests, frontiers: against scipy and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedopt.comparison.statistics import (
    first_reaching,
    holm,
    paired_test,
    pareto,
    t_interval,
    worst_decile,
)


def test_t_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 7)
    found = t_interval(values, 0.9)
    low, high = stats.t.interval(0.9, 6, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(values.std(ddof=1)) and found.number == 7


def test_t_interval_covers_as_promised() -> None:
    draws = np.random.default_rng(1).normal(size=(4000, 5))
    covered = np.mean([i.low <= 0 <= i.high for i in map(t_interval, draws)])
    # Three standard errors of a share of 0.95; a normal interval (1.96 s / sqrt n) covers 0.88 only.
    assert abs(covered - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4000)


def test_one_value_has_a_mean_but_no_interval() -> None:
    found = t_interval([0.5])
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.deviation) and found.number == 1
    assert t_interval([]).number == 0 and math.isnan(t_interval([]).mean)
    assert t_interval([1.0, math.nan, math.inf, 3.0]).mean == 2.0


def test_paired_test_is_scipys() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.4, 1, 9), rng.normal(0, 1, 9)
    found = paired_test(dict(enumerate(first)), dict(enumerate(second)))
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx((first - second).mean()) and found.pairs == 9


def test_paired_test_uses_shared_seeds_only_and_needs_two() -> None:
    assert paired_test({0: 1.0, 1: 2.0, 7: 100.0}, {0: 0.0, 1: 0.5, 8: -100.0}).difference == 1.25
    lonely = paired_test({0: 1.0}, {0: 0.0})
    assert lonely.difference == 1.0 and math.isnan(lonely.p_value) and lonely.pairs == 1


def test_paired_test_without_spread() -> None:
    assert paired_test({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}).p_value == 0.0
    assert paired_test({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p_value == 1.0


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1; the third is raised to the second's 0.06.
    assert holm([0.5, 0.02, 0.01, 0.03]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.04)


def test_holm_keeps_the_family_wise_error() -> None:
    rng = np.random.default_rng(3)
    tries, tests = 2000, 5
    wrong = np.mean([min(holm(rng.random(tests))) <= 0.05 for _ in range(tries)])
    assert abs(wrong - (1 - (1 - 0.05 / tests) ** tests)) < 3 * math.sqrt(0.05 * 0.95 / tries)
    unadjusted = np.mean([min(rng.random(tests)) <= 0.05 for _ in range(tries)])
    assert unadjusted > 0.15, "without adjustment the error would be 23 %"


def test_pareto_by_hand() -> None:
    points = np.array([[1.0, 5.0], [2.0, 2.0], [5.0, 1.0], [2.0, 3.0], [1.0, 5.0], [math.nan, 0.0], [6.0, math.inf]])
    assert pareto(points).tolist() == [True, True, True, False, True, False, False]


def test_pareto_is_what_the_definition_says() -> None:
    points = np.random.default_rng(4).integers(0, 4, (40, 3)).astype(float)
    kept = pareto(points)
    for i, point in enumerate(points):
        beaten = any((other <= point).all() and (other < point).any() for other in points)
        assert kept[i] == (not beaten)


def test_worst_decile_is_the_mean_of_the_worst_tenth() -> None:
    values = np.arange(20.0)
    assert worst_decile(values, "max") == 0.5 and worst_decile(values, "min") == 18.5
    assert worst_decile(np.arange(11.0), "max") == 0.5, "eleven clients: the worst two"
    assert math.isnan(worst_decile([], "max")) and worst_decile([math.nan, 0.3], "max") == 0.3


def test_first_reaching() -> None:
    assert first_reaching([None, math.nan, 0.5, 0.7], 0.5, "max") == 2
    assert first_reaching([3.0, 2.0, 1.0], 2.0, "min") == 1
    assert first_reaching([0.1], 0.5, "max") is None and first_reaching([], 0.5, "max") is None
