"""Renyi accounting: reference tables, exact divergences, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import skellam

from fedopt.privacy.accountants._renyi import ORDERS, renyi
from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.accountants.rdp import Rdp
from fedopt.privacy.events import (
    AccountingError,
    DiscreteGaussianEvent,
    FixedSizeSampled,
    GaussianEvent,
    LaplaceEvent,
    PoissonSampled,
    PureEvent,
    Repeated,
    ShuffledSumEvent,
    ShuffleEvent,
    SkellamEvent,
)
from fedopt.privacy.shuffle import clones_pair

RDP = Rdp()


@pytest.mark.parametrize(
    ("q", "z", "steps", "epsilon"),
    [
        (0.01, 4.0, 10000, 1.0355),
        (0.01, 1.0, 1000, 2.1014),
        (0.01, 2.0, 1000, 0.6862),
        (256 / 60000, 1.1, 14062, 2.5966),
        (0.1, 2.0, 100, 2.5806),
        (0.1, 1.0, 100, 7.9039),
        (1.0, 10.0, 100, 4.7285),
    ],
)
def test_reference_values(q, z, steps, epsilon):
    event = Repeated(PoissonSampled(q, GaussianEvent(z)), steps)
    assert RDP.epsilon(event, 1e-5, "add_or_remove_one") == pytest.approx(epsilon, abs=2e-4)


@pytest.mark.parametrize(
    ("q", "steps", "epsilon", "noise"),
    [
        (0.0416, 1000, 2, 2.970),
        (0.0416, 1000, 6, 1.319),
        (0.0416, 5000, 2, 6.388),
        (0.0625, 10000, 6, 5.170),
        (0.008, 20000, 6, 1.151),
    ],
)
def test_zeroth_order_table(q, steps, epsilon, noise):
    """The card's noise (integer orders 2..128) reaches its epsilon; fractional orders can only lower it a little."""
    spent = RDP.epsilon(Repeated(PoissonSampled(q, GaussianEvent(noise)), steps), 1e-5, "add_or_remove_one")
    assert 0.975 * epsilon <= spent <= 1.001 * epsilon


def test_monotone_and_additive():
    def spent(q=0.05, z=1.0, steps=100):
        return RDP.epsilon(Repeated(PoissonSampled(q, GaussianEvent(z)), steps), 1e-5, "add_or_remove_one")

    assert spent(q=0.04) < spent() < spent(q=0.06)
    assert spent(z=1.1) < spent() < spent(z=0.9)
    assert spent(steps=90) < spent() < spent(steps=110)
    event = PoissonSampled(0.05, GaussianEvent(1.0))
    apart = [Repeated(event, 30), event, Repeated(event, 69)]
    assert RDP.epsilon(apart, 1e-5, "add_or_remove_one") == pytest.approx(spent(), rel=1e-9)
    assert spent(q=1.0) == pytest.approx(RDP.epsilon(GaussianEvent(0.1), 1e-5, "add_or_remove_one"), rel=1e-9)
    assert spent(z=100.0) < 0.05 and spent(z=1e4) < 0.01


def test_trap_one_the_factor_two_of_replace_one():
    event = Repeated(GaussianEvent(10.0), 100)
    assert RDP.epsilon(event, 1e-5, "zero_out_one") == pytest.approx(4.7285, abs=1e-4)
    assert RDP.epsilon(event, 1e-5, "replace_one") > 9.9973
    assert RDP.epsilon(event, 1e-5, "replace_one") == RDP.epsilon(
        Repeated(GaussianEvent(5.0), 100), 1e-5, "zero_out_one"
    )


@pytest.mark.parametrize(("z", "epsilon"), [(1.0, 20.99), (2.0, 3.576), (4.0, 1.501)])
def test_trap_two_fixed_size_sampling(z, epsilon):
    event = Repeated(FixedSizeSampled(100, 10000, GaussianEvent(z)), 1000)
    assert RDP.epsilon(event, 1e-5, "replace_one") == pytest.approx(epsilon, abs=5e-3)


def test_trap_five_poisson_with_replace_one_is_refused():
    with pytest.raises(AccountingError, match="use accountant: pld"):
        RDP.epsilon(PoissonSampled(0.01, GaussianEvent(1.0)), 1e-5, "replace_one")


def test_trap_seven_one_accountant_for_noise_and_stop():
    """Noise calibrated by PLD for 1000 steps but stopped by RDP ends at step 687."""
    event = PoissonSampled(0.01, GaussianEvent(1.0))
    target = Pld().epsilon(Repeated(event, 1000), 1e-5, "add_or_remove_one")
    curve = RDP.epsilon_curve(event, np.arange(1, 1001), 1e-5, "add_or_remove_one")
    assert int((curve <= target).sum()) == 687


@pytest.mark.parametrize(
    ("variance", "shift", "order", "exact", "bound"),
    [(100, 1, 2, 0.0099996, 0.010225), (20, 3, 8, 1.5089, 1.8956), (5, 1, 2, 0.1976, 0.2900)],
)
def test_skellam_bound_against_the_exact_divergence(variance, shift, order, exact, bound):
    value = np.arange(-int(9 * variance**0.5) - 9, int(9 * variance**0.5) + 9)  # beyond, mass and moments vanish
    here, there = (np.log(skellam.pmf(value - move, variance / 2, variance / 2)) for move in (0, shift))
    direct = math.log(np.exp(order * here + (1 - order) * there).sum()) / (order - 1)
    assert direct == pytest.approx(exact, rel=1e-3)
    found = renyi(SkellamEvent(shift, shift, variance, 1.0), "zero_out_one", 0.0)[list(ORDERS).index(order)]
    assert found == pytest.approx(bound, rel=1e-3) and found >= direct


def test_skellam_between_integer_orders_interpolates_the_cumulant():
    """The theorem holds at integer orders; between them only convexity of the cumulant is known."""
    found = (ORDERS - 1) * renyi(SkellamEvent(2.0, 2.0, 5.0, 1.0), "zero_out_one", 0.0)
    at = dict(zip(ORDERS.round(1).tolist(), found.tolist(), strict=True))
    assert at[1.5] == pytest.approx(at[2.0] / 2)
    assert at[3.3] == pytest.approx(0.7 * at[3.0] + 0.3 * at[4.0])
    formula = 2.3 * (3.3 * 4 / 10 + min((5.6 * 4 + 12) / 100, 6 / 10))
    assert at[3.3] > formula  # the formula at a fractional order is smaller, and unproved


def test_skellam_units():
    """Integer units with scale 1 and real units with a scale are the same release."""
    integer = SkellamEvent(300.0, 100.0, 4e4, 1.0)
    real = SkellamEvent(3.0, 1.0, 4.0, 100.0)
    np.testing.assert_allclose(renyi(integer, "replace_one", 0.0), renyi(real, "replace_one", 0.0))
    many = SkellamEvent(1.0, 1.0, 4.0, 1e6)  # fine steps approach the Gaussian
    whole = np.floor(ORDERS) == ORDERS
    np.testing.assert_allclose(
        renyi(many, "zero_out_one", 0.0)[whole], renyi(GaussianEvent(2.0), "zero_out_one", 0.0)[whole], rtol=1e-4
    )


def test_discrete_gaussian_approaches_the_gaussian_and_refuses_to_flatter():
    fine = DiscreteGaussianEvent(1.0, 1.0, 0.2, 100.0, 100, 10)
    np.testing.assert_allclose(renyi(fine, "zero_out_one", 0.0), ORDERS / (2 * 100 * 0.04), rtol=1e-6)
    coarse = DiscreteGaussianEvent(1.0, 1.0, 0.2, 2.5, 100, 10)  # integer std 0.5: tau = 9.7, unusable
    assert (renyi(coarse, "zero_out_one", 0.0) > 96).all()


def test_pure_and_laplace_divergences_by_summation():
    epsilon = 0.8
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    direct = [math.log(p**a * (1 - p) ** (1 - a) + (1 - p) ** a * p ** (1 - a)) / (a - 1) for a in ORDERS[:60]]
    np.testing.assert_allclose(renyi(PureEvent(epsilon), "replace_one", 0.0)[:60], direct, rtol=1e-9)
    x = np.linspace(-40, 40, 800_001)
    first, second = np.exp(-np.abs(x)) / 2, np.exp(-np.abs(x - epsilon)) / 2
    for order in (1.5, 4.0):
        quadrature = math.log(np.trapezoid(first**order * second ** (1 - order), x)) / (order - 1)
        found = renyi(LaplaceEvent(1 / epsilon), "zero_out_one", 0.0)[list(ORDERS).index(order)]
        assert found == pytest.approx(quadrature, rel=1e-6)


def test_poisson_of_any_mechanism_is_above_the_exact_one():
    """The generic bound, with the minimum of the unamplified one, lies above the sampled pure pair and below it all."""
    sampled = PoissonSampled(0.1, PureEvent(0.5, "zero_out_one"))
    for count in (1, 50):
        bound = RDP.epsilon(Repeated(sampled, count), 1e-5, "zero_out_one")
        assert bound >= Pld().epsilon(Repeated(sampled, count), 1e-5, "zero_out_one")
        assert bound <= RDP.epsilon(Repeated(sampled.event, count), 1e-5, "zero_out_one") + 1e-9


def test_curve_is_the_pointwise_epsilon():
    event = PoissonSampled(0.05, GaussianEvent(1.2))
    curve = RDP.epsilon_curve(event, [0, 1, 10, 100], 1e-5, "zero_out_one")
    expected = [RDP.epsilon(Repeated(event, n), 1e-5, "zero_out_one") for n in (0, 1, 10, 100)]
    np.testing.assert_allclose(curve, expected, rtol=1e-12)


def test_truncated_moments_never_say_that_nothing_was_released():
    """A tenth of delta pays for cut tails, which can make the log-moment zero; epsilon is not zero for that."""
    nearly_nothing = ShuffledSumEvent(800, 1, 1, 100, 0.5)
    exact = Pld().epsilon(nearly_nothing, 1e-3, "replace_one")
    assert 0.004 < exact <= RDP.epsilon(nearly_nothing, 1e-3, "replace_one")
    assert RDP.epsilon_curve(nearly_nothing, [1], 1e-3, "replace_one")[0] >= exact


def test_the_mass_that_atoms_of_a_shuffle_leave_out_counts_in_delta():
    shuffle = ShuffleEvent(1.0, 100)
    left_out = clones_pair(1.0, 100)[2]
    assert 0 < left_out <= RDP.delta(shuffle, np.array([50.0]), "replace_one")[0] < 1e-12
    both = [Repeated(shuffle, 2), SkellamEvent(1.0, 1.0, 100.0, 100.0)]
    assert Pld().delta(both, np.array([400.0]), "replace_one")[0] >= 2 * left_out
