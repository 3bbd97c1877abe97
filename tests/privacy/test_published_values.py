"""Numbers of the literature that our formulas must meet although no run uses them: conversions, closed forms, pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.privacy.accountants._pairs import _joint_atoms
from fedopt.privacy.accountants._pmf import AtomPair, Composer, epsilon_of
from fedopt.privacy.accountants._renyi import ORDERS, renyi
from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.accountants.rdp import Rdp
from fedopt.privacy.events import DiscreteGaussianEvent, GaussianEvent, PoissonSampled, Repeated
from fedopt.privacy.gaussian_dp import gaussian_delta
from fedopt.privacy.shuffle import _clones_atoms, clones_epsilon

DELTA = 1e-6


def classical(q: float, z: float, steps: int, delta: float, orders: np.ndarray = ORDERS) -> float:
    """Moments accountant: r + log(1/delta) / (a - 1), as the first papers converted."""
    kept = np.isin(ORDERS, orders)
    bounds = steps * renyi(PoissonSampled(q, GaussianEvent(z)), "add_or_remove_one", 0.0)[kept]
    return float(np.min(bounds + math.log(1 / delta) / (ORDERS[kept] - 1)))


def test_anchors_of_the_first_papers():
    """Abadi et al. 2016: 1.26; the MNIST tutorial: 3.01; McMahan et al. 2018: 4.634 at integer orders."""
    assert classical(0.01, 4.0, 10_000, 1e-5) == pytest.approx(1.2586, abs=2e-3)
    assert classical(256 / 60_000, 1.1, 14_062, 1e-5) == pytest.approx(3.0083, abs=2e-3)
    q = 5000 / 763_430
    assert 4.575 <= classical(q, 1.0, 4980, 1e-9) <= 4.595
    assert classical(q, 1.0, 5000, 1e-9, np.arange(2.0, 65.0)) == pytest.approx(4.634, abs=2e-3)
    event = Repeated(PoissonSampled(q, GaussianEvent(1.0)), 5000)
    assert Rdp().epsilon(event, 1e-9, "add_or_remove_one") == pytest.approx(4.183, abs=2e-3)
    assert Pld().epsilon(event, 1e-9, "add_or_remove_one") == pytest.approx(3.899, abs=2e-3)


def test_textbook_gaussian_is_larger():
    assert math.sqrt(2 * math.log(1.25 / 1e-5)) == pytest.approx(4.84481, abs=1e-5)
    assert math.sqrt(2 * math.log(1.25 / 1e-6)) / 0.5 == pytest.approx(10.59761, abs=1e-5)


def test_sampling_clients_does_not_amplify_their_examples():
    """Probability 0.01, z = 1, epsilon 1: all that remains is 0.01 delta = 1.27e-3, where the formula claims 2.7e-9."""
    assert 0.01 * float(gaussian_delta(1.0, 1.0)) == pytest.approx(1.27e-3, rel=5e-3)
    claimed = Pld().delta(PoissonSampled(0.01, GaussianEvent(1.0)), np.array([1.0]), "add_or_remove_one")[0]
    assert claimed == pytest.approx(2.7e-9, rel=0.03)


@pytest.mark.parametrize(("z", "pld", "rdp"), [(13.9059, 3.0, 3.2500), (8.9187, 5.0, 5.3957)])
def test_diff2_by_both_accountants(z, pld, rdp):
    event = Repeated(GaussianEvent(z), 100)
    assert Pld().epsilon(event, 1e-5, "zero_out_one") == pytest.approx(pld, abs=1e-4)
    assert Rdp().epsilon(event, 1e-5, "zero_out_one") == pytest.approx(rdp, abs=1e-3)


@pytest.mark.parametrize(("integer_std", "tau"), [(1.0, 5.5e-4), (2.0, 7e-17)])
def test_discrete_gaussians_are_not_closed_under_sums(integer_std, tau):
    """With a tiny shift the bound is order / 2 tau^2 d: what the sum of 100 differs from a discrete Gaussian by."""
    event = DiscreteGaussianEvent(1e-30, 1e-30, integer_std, 1.0, 100, 1)
    found = renyi(event, "zero_out_one", 0.0)[list(ORDERS).index(2.0)]
    assert math.sqrt(found) == pytest.approx(tau, rel=0.05)


def test_zeroth_order_closed_form_is_loose():
    """DPZero, n = 1000, c = 1, T = 1000, epsilon 6: sigma 0.1087 by its rule, 0.0515 by Renyi accounting."""
    rule = 4 * math.sqrt(2 * 1000 * math.log(math.e + 6 / 1e-5)) / (1000 * 6)
    assert rule == pytest.approx(0.1087, abs=1e-4)
    multiplier = 0.0515 * 1000 / 2  # over the replace-one sensitivity 2 c / n
    spent = Rdp().epsilon(Repeated(GaussianEvent(multiplier), 1000), 1e-5, "zero_out_one")
    assert spent == pytest.approx(6.0, rel=5e-3)
    assert classical(1.0, 10.0, 1, 1e-5) == pytest.approx(0.485, abs=2e-3)
    assert Rdp().epsilon(GaussianEvent(10.0), 1e-5, "zero_out_one") == pytest.approx(0.375, abs=2e-3)


@pytest.mark.parametrize(
    ("q", "steps", "epsilon", "noise"),
    [
        (0.0416, 1000, 2, 3.429),
        (0.0416, 1000, 6, 1.411),
        (0.0416, 5000, 2, 7.416),
        (0.0625, 10000, 6, 5.653),
        (0.008, 20000, 6, 1.225),
    ],
)
def test_zeroth_order_table_by_the_classical_conversion(q, steps, epsilon, noise):
    assert classical(q, noise, steps, 1e-5, np.arange(2.0, 129.0)) == pytest.approx(epsilon, rel=2e-3)


def test_conversions_at_integer_orders():
    """q = 0.01, noise 1, 1000 steps at orders 2..128: 2.108 by the tight conversion, 2.538 by the classical one."""
    orders = np.arange(2.0, 129.0)
    assert classical(0.01, 1.0, 1000, 1e-5, orders) == pytest.approx(2.538, abs=1e-3)
    spent = 1000 * renyi(PoissonSampled(0.01, GaussianEvent(1.0)), "add_or_remove_one", 0.0)[np.isin(ORDERS, orders)]
    used = ORDERS[np.isin(ORDERS, orders)]
    tight = float(np.min(spent + np.log1p(-1 / used) - (math.log(1e-5) + np.log(used)) / (used - 1)))
    assert tight == pytest.approx(2.108, abs=1e-3)
    event = Repeated(PoissonSampled(0.01, GaussianEvent(1.0)), 1000)
    assert 0.99 * tight < Rdp().epsilon(event, 1e-5, "add_or_remove_one") <= tight


# ---- shuffle model -------------------------------------------------------------------------------------------------


def two_type(local_epsilon: float, clients: int) -> AtomPair:
    """The pair that holds for randomised response only."""
    return AtomPair(*_clones_atoms(local_epsilon, clients, 2 / (math.exp(local_epsilon) + 1)))


def composed(pair: AtomPair, steps: int, delta: float) -> float:
    step = 1e-4 if steps < 100 else 2e-4
    return epsilon_of(Composer([(pair.pmf(step), steps)]).composed([steps]), delta)


@pytest.mark.parametrize(
    ("clients", "local_epsilon", "values"),
    [
        (1000, 1.0, (0.1487, 0.5085, 1.760, 6.391)),
        (10_000, 1.0, (0.0432, 0.1485, 0.5085, 1.764)),
        (10_000, 2.0, (0.1144, 0.3913, 1.348, 4.826)),
    ],
)
def test_two_type_pair_over_rounds(clients, local_epsilon, values):
    """The reference grid rounds up, up to 0.4 % at 1000 rounds."""
    pair = two_type(local_epsilon, clients)
    for steps, value in zip((1, 10, 100, 1000), values, strict=True):
        assert 0.995 * value <= composed(pair, steps, DELTA) <= 1.002 * value


@pytest.mark.parametrize(
    ("sampled", "population", "local_epsilon", "steps", "one", "other", "joint"),
    [(20, 200, 2.0, 100, 4.57, 2.87, 5.03), (50, 500, 1.0, 1000, 2.354, 2.301, 2.489)],
)
def test_sampled_shuffles_need_the_joint_pair(sampled, population, local_epsilon, steps, one, other, joint):
    """Neither direction alone is certified under composition. The reference grid rounds up: 1 % after 1000 rounds."""
    pair, q = two_type(local_epsilon, sampled), sampled / population
    against = pair.masses * np.exp(-pair.losses)
    forward = AtomPair(np.log1p(q * np.expm1(pair.losses)), (1 - q) * against + q * pair.masses, pair.infinity)
    backward = AtomPair(-np.log1p(q * np.expm1(pair.losses)), against, pair.infinity)
    assert composed(forward, steps, 1e-5) == pytest.approx(one, rel=1e-5 * steps + 2e-3)
    assert composed(backward, steps, 1e-5) == pytest.approx(other, rel=1e-5 * steps + 2e-3)
    assert composed(_joint_atoms(pair, q), steps, 1e-5) == pytest.approx(joint, rel=1e-5 * steps + 2e-3)


def reference_code_closed_form(local_epsilon: float, n: int, delta: float) -> float:
    """The slightly larger closed form of the published code of Feldman et al. 2021."""
    grown = math.exp(local_epsilon)
    u, w = 8 * math.sqrt(grown * math.log(4 / delta) / n), 8 * grown / n
    first = math.log(1 + u + w)
    return math.log(1 + (1 - 1 / grown) / (1 + math.exp(-local_epsilon - first)) * (u + w))


def stronger_closed_form(local_epsilon: float, n: int, delta: float) -> float:
    """Closed form of the 2023 statement, which its erratum restricts; never used."""
    grown = math.exp(local_epsilon)
    inner = 4 * math.sqrt(2 * math.log(4 / delta)) / math.sqrt((grown + 1) * n) + 4 / n
    return math.log(1 + (grown - 1) * inner)


@pytest.mark.parametrize(
    ("clients", "local_epsilon", "code", "stronger"),
    [
        (1000, 0.5, 0.33484, 0.24733),
        (1000, 1.0, 0.64954, 0.48759),
        (10_000, 1.0, 0.23327, 0.18001),
        (10_000, 2.0, 0.52355, 0.39816),
        (100_000, 2.0, 0.19058, 0.14333),
        (100_000, 4.0, 0.53780, 0.40779),
        (1_000_000, 4.0, 0.20160, 0.14735),
    ],
)
def test_closed_forms_are_larger_than_the_numeric_bound(clients, local_epsilon, code, stronger):
    assert reference_code_closed_form(local_epsilon, clients, DELTA) == pytest.approx(code, abs=2e-5)
    assert stronger_closed_form(local_epsilon, clients, DELTA) == pytest.approx(stronger, abs=2e-5)
    assert clones_epsilon(local_epsilon, clients, DELTA) < min(code, stronger)


def blanket_hoeffding(epsilon: float, n: int, gamma: float, width: float) -> float:
    """Privacy blanket of Balle et al. 2019: delta(epsilon)."""
    a = math.expm1(epsilon)
    share = 1 - gamma * -math.expm1(-2 * a * a / width**2)
    return width**2 / (4 * a) / (gamma * n) * share**n


def smallest(delta_at, delta: float) -> float:
    low, high = 1e-6, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle) <= delta else (middle, high)
    return high


@pytest.mark.parametrize(
    ("clients", "local", "value"), [(1000, 1.0, 0.58044), (10_000, 1.0, 0.16663), (10_000, 2.0, 1.01708)]
)
def test_privacy_blanket_of_any_randomiser(clients, local, value):
    """Generic Hoeffding form: valid, and looser than the clones bound."""
    gamma = math.exp(-local)

    def delta_at(epsilon: float) -> float:
        width = (math.exp(epsilon) + 1) * (math.exp(local) - math.exp(-local))
        return blanket_hoeffding(epsilon, clients, gamma, width)

    found = smallest(delta_at, DELTA)
    assert found == pytest.approx(value, abs=1e-4) and clones_epsilon(local, clients, DELTA) < found


@pytest.mark.parametrize(
    ("clients", "local", "value"), [(1000, 1.0, 0.17192), (10_000, 1.0, 0.05067), (10_000, 2.0, 0.13244)]
)
def test_privacy_blanket_of_binary_randomised_response(clients, local, value):
    gamma = 2 / (math.exp(local) + 1)
    found = smallest(lambda e: blanket_hoeffding(e, clients, gamma, (1 - gamma) * 2 * (math.exp(e) + 1)), DELTA)
    assert found == pytest.approx(value, abs=1e-4)
    assert clones_epsilon(local, clients, DELTA, 2 / (math.exp(local) + 1)) < found


@pytest.mark.parametrize(
    ("clients", "local", "value"), [(1000, 1.0, 0.18316), (10_000, 1.0, 0.05400), (10_000, 2.0, 0.16663)]
)
def test_privacy_blanket_of_laplace(clients, local, value):
    gamma = math.exp(-local / 2)
    found = smallest(
        lambda e: blanket_hoeffding(
            e, clients, gamma, (math.exp(e) + 1) * (math.exp(local / 2) - math.exp(-local / 2))
        ),
        DELTA,
    )
    assert found == pytest.approx(value, abs=1e-4)


def test_closed_renyi_bound_is_ten_times_looser():
    """Girgis et al. 2021 at order 2, n = 1000, local epsilon 1: 0.0233 against 0.00232."""
    from fedopt.privacy.events import ShuffleEvent

    n, grown = 1000, math.e
    kept = math.floor((n - 1) / (2 * grown)) + 1
    rate = (grown**2 - 1) / (2 * grown)
    rest = ((1 + rate) ** 2 - 1 - 2 * rate) * math.exp(-(n - 1) / (8 * grown))
    closed = math.log(1 + 4 * (grown - 1) ** 2 / (kept * grown) + rest)
    assert closed == pytest.approx(0.0233, abs=2e-4)
    numeric = renyi(ShuffleEvent(1.0, n), "replace_one", 0.0)[list(ORDERS).index(2.0)]
    assert numeric == pytest.approx(0.00232, abs=2e-5)
