"""Calibration: least noise, never above the target, by the accountant that will stop the run."""

from __future__ import annotations

import math

import pytest

from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.accountants.rdp import Rdp
from fedopt.privacy.calibrate import calibrate, smallest_noise
from fedopt.privacy.events import AccountingError, GaussianEvent, NonPrivateEvent, PoissonSampled, Repeated
from fedopt.privacy.gaussian_dp import analytic_gaussian


def test_unsampled_gaussian_is_the_analytic_one():
    for epsilon, steps in ((1.0, 1), (3.0, 100)):
        found = calibrate(lambda z, n=steps: Repeated(GaussianEvent(z), n), epsilon, 1e-5, "zero_out_one", Pld())
        assert found.noise_multiplier == pytest.approx(analytic_gaussian(epsilon, 1e-5) * math.sqrt(steps), rel=1e-4)
        assert found.epsilon <= epsilon and found.accountant == "pld"
    golden = calibrate(lambda z: Repeated(GaussianEvent(z), 100), 3.0, 1e-5, "zero_out_one", Pld())
    assert golden.noise_multiplier == pytest.approx(13.9059, abs=1e-4)  # DIFF2 card
    doubled = calibrate(lambda z: Repeated(GaussianEvent(z), 100), 3.0, 1e-5, "replace_one", Pld())
    assert doubled.noise_multiplier == pytest.approx(2 * golden.noise_multiplier, rel=1e-6)


@pytest.mark.parametrize("accountant", [Pld(), Rdp()], ids=["pld", "rdp"])
def test_sampled_gaussian_meets_its_target(accountant):
    def events(z):
        return Repeated(PoissonSampled(0.05, GaussianEvent(z)), 200)

    found = calibrate(events, 2.0, 1e-5, "add_or_remove_one", accountant)
    assert 1.998 <= found.epsilon <= 2.0
    assert accountant.epsilon(events(found.noise_multiplier), 1e-5, "add_or_remove_one") == found.epsilon
    assert accountant.epsilon(events(0.99 * found.noise_multiplier), 1e-5, "add_or_remove_one") > 2.0


@pytest.mark.parametrize(("q", "steps", "target"), [(0.05, 200, 2.0), (0.003, 20, 8.0), (0.3, 50, 0.5)])
def test_the_fine_grid_is_asked_a_few_times_only(q, steps, target):
    """The search runs on a coarse grid; the answer is the fine grid's, and its epsilon stays at or below the target."""
    asked = []

    class Counted(Pld):
        def epsilon(self, events, delta, relation):
            asked.append(self.points)
            return super().epsilon(events, delta, relation)

    def events(z):
        return Repeated(PoissonSampled(q, GaussianEvent(z)), steps)

    found = calibrate(events, target, 1e-5, "add_or_remove_one", Counted())
    assert 0.999 * target <= found.epsilon <= target
    assert found.epsilon == Pld().epsilon(events(found.noise_multiplier), 1e-5, "add_or_remove_one")
    assert asked.count(2**19) <= 6 and asked[0] == 2**13


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_search_finds_any_power_law(power, start):
    asked = []

    def epsilon(level):
        asked.append(level)
        return 5.0 * level**-power

    level, reached = smallest_noise(epsilon, 0.8, start=start)
    assert 0.8 * 0.999 <= reached <= 0.8
    assert level == pytest.approx((5.0 / 0.8) ** (1 / power), rel=2e-3 / power)
    assert len(asked) < 60


def test_search_survives_jumps_and_infinities():
    level, reached = smallest_noise(lambda z: math.inf if z < 3 else 1.0, 2.0)
    assert reached == 1.0 and 3.0 <= level <= 3.001


def test_impossible_targets_are_refused():
    with pytest.raises(AccountingError, match="no noise reaches epsilon 1; raise the target"):
        calibrate(lambda z: [GaussianEvent(z), NonPrivateEvent("raw")], 1.0, 1e-5, "zero_out_one", Pld())
    with pytest.raises(AccountingError, match="target_epsilon must be > 0, got 0"):
        calibrate(GaussianEvent, 0.0, 1e-5, "zero_out_one", Pld())


def test_a_delta_above_the_chance_of_taking_part_is_refused():
    """20 steps at probability 3e-5 with delta 1e-3: epsilon is 0 at any noise, which is no privacy to calibrate."""

    class Free(Pld):
        def epsilon(self, events, delta, relation):
            return 0.0

    assert Pld().epsilon(PoissonSampled(3e-5, GaussianEvent(0.01)), 1e-3, "add_or_remove_one") == 0.0
    with pytest.raises(AccountingError, match=r"even no noise satisfies it.*use a smaller delta"):
        calibrate(lambda z: PoissonSampled(3e-5, GaussianEvent(z)), 8.0, 1e-3, "add_or_remove_one", Free())
