"""Data size against speed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from fedopt.devices.compute.constant import Constant
from fedopt.devices.compute.correlated import Correlated
from fedopt.devices.compute.half_normal import HalfNormal
from fedopt.devices.compute.ladder import Ladder
from fedopt.devices.compute.work import Work


def expected(model, fleet_, clients: int) -> np.ndarray:
    return np.array(model.bind(fleet_).expected([1] * clients, 1), dtype=float)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_full_correlation_is_sorting(fleet, sign):
    sizes = np.array([30, 10, 50, 20, 40])
    times = expected(Correlated(rank_correlation=sign), fleet(5, num_examples=sizes), 5)
    assert np.argsort(times).tolist() == np.argsort(sign * sizes).tolist()
    assert sorted(times) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("wanted", [-0.7, 0.0, 0.5, 0.9])
def test_rank_correlation_is_the_one_asked_for(fleet, wanted):
    """Standard error of a Spearman correlation of n pairs: about (1 - rho^2) / sqrt(n)."""
    clients = 4000
    sizes = np.random.default_rng(0).lognormal(4, 1, clients).astype(int) + 1
    times = expected(Correlated(base=Work(), rank_correlation=wanted), fleet(clients, num_examples=sizes), clients)
    found, error = spearmanr(sizes, times).statistic, 1.1 * max(0.3, 1 - wanted**2) / np.sqrt(clients)
    assert abs(found - wanted) < 4 * error
    if wanted:
        assert abs(found - wanted * 2 / 3) > 4 * error


def test_the_copula_is_given_the_correlation_that_makes_the_ranks_right(fleet):
    """A normal correlation of 0.6 itself would give ranks 0.582; four standard errors tell them apart."""
    clients = 60_000
    sizes = np.random.default_rng(0).permutation(clients) + 1
    times = expected(Correlated(rank_correlation=0.6), fleet(clients, num_examples=sizes), clients)
    found, error = spearmanr(sizes, times).statistic, (1 - 0.6**2) / np.sqrt(clients)
    assert abs(found - 0.6) < 4 * error < abs(found - 0.582)


def test_devices_are_only_dealt_anew(fleet):
    base = Work()
    plain, dealt = base.bind(fleet(20)), Correlated(base=base, rank_correlation=0.3).bind(fleet(20))
    steps = list(range(1, 21))
    before = sorted(plain.seconds(client, 4, 3, 2) for client in range(20))
    assert sorted(dealt.seconds(client, 4, 3, 2) for client in range(20)) == before
    equal, unequal = dealt.expected([1] * 20, 2), dealt.expected(steps, 2)
    assert unequal == pytest.approx([a * b for a, b in zip(equal, steps, strict=True)]), "steps stay with the client"


def test_equal_sizes_are_in_random_order(fleet):
    times = expected(Correlated(), fleet(50, num_examples=np.full(50, 7)), 50)
    assert times.tolist() != sorted(times) and times.tolist() != sorted(times)[::-1]


def test_exactness_is_kept(fleet):
    assert Correlated().denominator(7) == Ladder().denominator(7)


@pytest.mark.parametrize("base", [HalfNormal(), Constant()])
def test_devices_that_are_all_alike_are_refused(fleet, base):
    with pytest.raises(ValueError, match=f"{base.kind()} does not. Use ladder"):
        Correlated(base=base).bind(fleet(3))
