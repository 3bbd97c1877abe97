"""The attacker's limits against closed forms and a simulated attack."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.accountants.rdp import Rdp
from fedopt.privacy.events import GaussianEvent, PoissonSampled, PureEvent, Repeated
from fedopt.privacy.trade_off import trade_off


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_gaussian_closed_form(mu):
    found = trade_off(GaussianEvent(1 / mu), "zero_out_one", Pld())
    assert found.advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1, rel=1e-9)
    best = norm.cdf(norm.ppf(0.01) + mu)
    assert best <= found.true_positive_rate <= best * 1.002  # an upper bound, tight to the grid of epsilons


def test_randomised_response_closed_form():
    found = trade_off(PureEvent(1.0), "replace_one", Pld(), 0.01)
    assert found.true_positive_rate == pytest.approx(np.e * 0.01, rel=1e-3)
    assert found.advantage == pytest.approx((np.e - 1) / (np.e + 1), rel=1e-4)


def test_sampled_gaussian_bounds_the_best_attack():
    """The likelihood-ratio attack on one sampled release, with both worlds simulated."""
    rng, n, q, z = np.random.default_rng(0), 400_000, 0.3, 0.7
    absent = z * rng.normal(size=n)
    present = z * rng.normal(size=n) + (rng.random(n) < q)
    threshold = np.quantile(absent, 0.99)
    reached = float((present > threshold).mean())
    found = trade_off(PoissonSampled(q, GaussianEvent(z)), "add_or_remove_one", Pld())
    error = np.sqrt(reached * (1 - reached) / n + 0.01 * 0.99 / n)
    assert found.true_positive_rate >= reached - 4 * error
    assert found.true_positive_rate <= reached + 0.01  # not vacuous


def test_no_release_is_guessing_and_renyi_is_never_below():
    nothing = trade_off([], "zero_out_one", Pld())
    assert nothing.advantage == 0 and nothing.true_positive_rate == pytest.approx(0.01)
    event = Repeated(PoissonSampled(0.05, GaussianEvent(1.0)), 100)
    tight, loose = (trade_off(event, "zero_out_one", a) for a in (Pld(), Rdp()))
    assert loose.true_positive_rate >= tight.true_positive_rate


def test_plain_words():
    words = trade_off(GaussianEvent(1.0), "zero_out_one", Pld()).sentence()
    assert "false alarm in 1 % of the cases, is right about at most 9.2 % of the units" in words
    assert words.endswith("(true minus false positives) is 38.3 %.")
