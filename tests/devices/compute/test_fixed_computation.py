"""tau_i = i, sqrt(i), i + |N(0, i)|."""

from __future__ import annotations

import numpy as np
import pytest

from fedopt.devices.compute.fixed_computation import FixedComputation


def test_linear_and_square_root(fleet):
    assert FixedComputation(unit_s=0.5).bind(fleet(4)).expected([1, 1, 1, 3], 9) == [0.5, 1.0, 1.5, 6.0]
    assert FixedComputation(law="sqrt").bind(fleet(4)).expected([1] * 4, 1)[3] == pytest.approx(2.0)


def test_random_part_has_variance_i(fleet, check_mean):
    bound = FixedComputation(law="linear_half_normal").bind(fleet(3000))
    ranks = np.arange(1, 3001)
    excess = np.array(bound.expected([1] * 3000, 1)) - ranks
    check_mean(excess**2 / ranks, 1.0)
    assert bound.seconds(5, 0, 1, 1) == bound.seconds(5, 77, 1, 1)
