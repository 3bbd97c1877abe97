"""Shuffle amplification against the reference table, the repaired bound, and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.accountants.rdp import Rdp
from fedopt.privacy.events import FixedSizeSampled, Repeated, ShuffleEvent
from fedopt.privacy.shuffle import (
    binomial_shift_curve,
    binomial_shift_delta,
    clones_delta,
    clones_epsilon,
    clones_pair,
)

DELTA = 1e-6


def two_type(local_epsilon: float) -> float:
    """Clone probability that holds for randomised response only."""
    return 2 / (math.exp(local_epsilon) + 1)


def closed_form_paper(local_epsilon: float, n: int, delta: float) -> float:
    """Feldman et al. 2021, closed form; out of range gives local_epsilon."""
    if local_epsilon > math.log(n / (16 * math.log(2 / delta))):
        return local_epsilon
    grown = math.exp(local_epsilon)
    inner = 8 * math.sqrt(grown * math.log(4 / delta) / n) + 8 * grown / n
    return math.log(1 + (grown - 1) / (grown + 1) * inner)


# clients, local epsilon, closed form (paper) or None, clones, two-type
TABLE = [
    (1000, 0.5, 0.27264, 0.07052, 0.06269),
    (1000, 1.0, 0.56620, 0.18241, 0.14867),
    (1000, 2.0, None, 0.54550, 0.39709),
    (10_000, 0.5, 0.09387, 0.02040, 0.01812),
    (10_000, 1.0, 0.21403, 0.05301, 0.04321),
    (10_000, 2.0, 0.50092, 0.15505, 0.11440),
    (10_000, 4.0, None, 0.60091, 0.41081),
    (100_000, 1.0, 0.07255, 0.01528, 0.01243),
    (100_000, 2.0, 0.18619, 0.04503, 0.03319),
    (100_000, 4.0, 0.53463, 0.16977, 0.11815),
    (1_000_000, 1.0, 0.02350, 0.00433, 0.00351),
    (1_000_000, 4.0, 0.20099, 0.04931, 0.03428),
]


@pytest.mark.parametrize(("clients", "local_epsilon", "closed", "clones", "restricted"), TABLE)
def test_reference_table(clients, local_epsilon, closed, clones, restricted):
    assert clones_epsilon(local_epsilon, clients, DELTA) == pytest.approx(clones, abs=2e-5)
    found = clones_epsilon(local_epsilon, clients, DELTA, two_type(local_epsilon))
    assert found == pytest.approx(restricted, abs=2e-5) and found < clones
    formula = closed_form_paper(local_epsilon, clients, DELTA)
    assert formula == pytest.approx(closed if closed is not None else local_epsilon, abs=2e-5)
    assert clones < formula


def test_reference_bracket():
    assert 0.16754 <= clones_epsilon(4.0, 100_000, 1e-6) <= 0.17279


def test_limits_and_monotonicity():
    """Amplified epsilon is at most the local one, falls with n and delta, rises with the local one."""
    assert clones_epsilon(1.0, 1, DELTA) == pytest.approx(math.log(math.e - DELTA * (math.e + 1)), rel=1e-7)
    for clients in (1, 2, 10, 1000):
        assert clones_epsilon(0.3, clients, 1e-3) <= 0.3
    by_clients = [clones_epsilon(1.0, n, DELTA) for n in (10, 100, 1000, 10_000)]
    by_local = [clones_epsilon(e, 1000, DELTA) for e in (0.2, 0.5, 1.0, 2.0)]
    by_delta = [clones_epsilon(1.0, 1000, d) for d in (1e-9, 1e-6, 1e-3)]
    assert by_clients == sorted(by_clients, reverse=True)
    assert by_local == sorted(by_local) and by_delta == sorted(by_delta, reverse=True)
    assert clones_epsilon(0.5, 1000, 0.9) == 0.0


def test_pair_is_the_definition():
    """The atoms against the pair written out: C ~ Bin(n-1, s), A ~ Bin(C, 1/2), one more by a biased coin."""
    n, local = 12, 1.3
    s, share = math.exp(-local), math.exp(local) / (1 + math.exp(local))
    first: dict[tuple[int, int], float] = {}
    second: dict[tuple[int, int], float] = {}
    for c in range(n):
        for a in range(c + 1):
            mass = binom.pmf(c, n - 1, s) * binom.pmf(a, c, 0.5)
            for d, p in ((1, share), (0, 1 - share)):
                key, mirrored = (a + d, c - a + 1 - d), (a + 1 - d, c - a + d)
                first[key] = first.get(key, 0.0) + mass * p
                second[mirrored] = second.get(mirrored, 0.0) + mass * p
    for epsilon in (0.0, 0.3, 0.9):
        brute = sum(max(0.0, first.get(k, 0.0) - math.exp(epsilon) * second.get(k, 0.0)) for k in first)
        mirror = sum(max(0.0, second.get(k, 0.0) - math.exp(epsilon) * first.get(k, 0.0)) for k in second)
        assert brute == pytest.approx(mirror, rel=1e-12)  # one direction suffices
        assert float(clones_delta(epsilon, local, n)) == pytest.approx(brute, rel=1e-10)


@pytest.mark.parametrize(("clients", "local_epsilon"), [(500, 1.0), (20_000, 3.0), (2_000_000, 0.5)])
def test_pair_has_total_mass_one_under_both_orders(clients, local_epsilon):
    losses, masses, infinity = clones_pair(local_epsilon, clients)
    assert masses.sum() + infinity == pytest.approx(1.0, abs=1e-12)
    assert (masses * np.exp(-losses)).sum() == pytest.approx(1.0, abs=1e-12)
    assert infinity < 1e-17 and np.abs(losses).max() <= local_epsilon + 1e-12


def repaired_delta(epsilon: float, local_epsilon: float, n: int, p: float) -> float:
    """The general bound that repairs the erratum: three types of other users (card, section 4.5)."""
    e0, grown = math.exp(local_epsilon), math.exp(epsilon)
    rest = (1 - (1 + e0) * p) / e0
    law = multinomial(n, [p, p, rest, max(0.0, 1 - 2 * p - rest)])
    total = 0.0
    for a, b, c in itertools.product(range(n + 1), repeat=3):
        if a + b + c <= n:
            gain = (e0 - grown) * a - (grown * e0 - 1) * b - e0 * (grown - 1) * c
            total += float(law.pmf([a, b, c, n - a - b - c])) * max(0.0, gain)
    return total / n


def test_repaired_bound_at_its_end_is_the_two_type_pair_and_clones_lie_above():
    """The erratum: the two-type pair needs a restricted randomiser; the clones pair, which we use, is never below."""
    n, local = 14, 1.0
    ends = 1 / (math.exp(local) + 1)
    for epsilon in (0.1, 0.4, 0.8):
        end = repaired_delta(epsilon, local, n, ends)
        assert end == pytest.approx(float(clones_delta(epsilon, local, n, two_type(local))), rel=1e-9)
        largest = max(repaired_delta(epsilon, local, n, share * ends) for share in (0.0, 0.3, 0.7, 0.9, 1.0))
        assert float(clones_delta(epsilon, local, n)) >= largest


@pytest.mark.parametrize(
    ("clients", "local_epsilon", "steps", "pld", "rdp"),
    [
        (1000, 1.0, 1, 0.1824, 0.1993),
        (1000, 1.0, 10, 0.6234, 0.6737),
        (1000, 1.0, 100, 2.166, 2.324),
        (1000, 1.0, 1000, 7.977, 8.475),
        (10_000, 1.0, 10, 0.1819, 0.1984),
        (10_000, 1.0, 1000, 2.171, 2.324),
        (10_000, 2.0, 1, 0.1550, 0.1697),
        (10_000, 2.0, 100, 1.835, 1.972),
        (10_000, 2.0, 1000, 6.681, 7.106),
    ],
)
def test_composition_over_rounds(clients, local_epsilon, steps, pld, rdp):
    """The reference grid rounds up, which costs up to 0.4 % at 1000 rounds; ours splits atoms."""
    event = Repeated(ShuffleEvent(local_epsilon, clients), steps)
    ours, renyi = Pld().epsilon(event, DELTA, "replace_one"), Rdp().epsilon(event, DELTA, "replace_one")
    assert 0.996 * pld <= ours <= 1.001 * pld
    assert renyi == pytest.approx(rdp, rel=6e-3) and renyi >= ours
    if steps == 1:
        assert ours == pytest.approx(clones_epsilon(local_epsilon, clients, DELTA), rel=1e-3)


def test_subsampled_clients_use_the_joint_pair():
    """Card, section 6: single directions 2.354 and 2.301, joint 2.489 (two-type); clones here, so compare orders."""
    sampled = Repeated(FixedSizeSampled(50, 500, ShuffleEvent(1.0, 50)), 200)
    plain = Repeated(ShuffleEvent(1.0, 50), 200)
    joint = Pld().epsilon(sampled, 1e-5, "replace_one")
    assert joint < Pld().epsilon(plain, 1e-5, "replace_one")

    from fedopt.privacy.accountants._pmf import AtomPair, Composer, epsilon_of

    losses, masses, infinity = clones_pair(1.0, 50)
    q, against = 0.1, masses * np.exp(-losses)
    one_way = AtomPair(np.log1p(q * np.expm1(losses)), (1 - q) * against + q * masses, infinity)
    other_way = AtomPair(-np.log1p(q * np.expm1(losses)), against, infinity)
    for single in (one_way, other_way):
        composed = Composer([(single.pmf(1e-4), 200)]).composed([200])
        assert epsilon_of(composed, 1e-5) < joint


def test_wrong_number_of_shuffled_clients_is_refused():
    event = FixedSizeSampled(50, 500, ShuffleEvent(1.0, 500))
    with pytest.raises(ValueError, match="500 clients are shuffled but 50 are sampled; they must be equal"):
        Pld().epsilon(event, 1e-5, "replace_one")


@pytest.mark.parametrize(("bias", "smallest", "by_the_rule"), [(0.25, 98_503, 5_348_472), (0.5, 73_114, 2_674_236)])
def test_scalar_sum_reference(bias, smallest, by_the_rule):
    """Smallest exact number of noise bits for shift 32 at (1, 1e-6); the closed rule has delta under 1e-100."""
    assert binomial_shift_delta(1.0, smallest, bias, 32) <= DELTA < binomial_shift_delta(1.0, smallest - 1, bias, 32)
    assert binomial_shift_delta(1.0, by_the_rule, bias, 32) < 1e-20
    rule = 90 * 32**2 * math.log(2 / DELTA) / bias
    assert rule == pytest.approx(by_the_rule, rel=1e-6)


def test_shift_curve_is_the_exact_divergence_and_dominates_smaller_shifts():
    trials, bias = 60, 0.3
    epsilon = np.array([0.0, 0.2, 0.7])
    value = np.arange(-10, trials + 11)
    mass = binom.pmf(value, trials, bias)
    previous = np.zeros(3)
    for shift in (1, 2, 5):
        moved = binom.pmf(value - shift, trials, bias)
        both = [[np.maximum(p - np.exp(e) * q, 0).sum() for e in epsilon] for p, q in ((mass, moved), (moved, mass))]
        curve = binomial_shift_curve(trials, bias, shift)(epsilon)
        np.testing.assert_allclose(curve, np.max(both, axis=0), rtol=1e-9)
        assert (curve > previous).all()
        previous = curve
