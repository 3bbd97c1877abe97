"""PLD: the reference values, the laws, and the library it is held against."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedopt.privacy.accountants.pld import Pld
from fedopt.privacy.accountants.rdp import Rdp
from fedopt.privacy.events import (
    AccountingError,
    Composed,
    DiscreteGaussianEvent,
    FixedSizeSampled,
    GaussianEvent,
    LaplaceEvent,
    MatrixEvent,
    NonPrivateEvent,
    PoissonSampled,
    PureEvent,
    Repeated,
    ShuffledSumEvent,
    ShuffleEvent,
    SkellamEvent,
    TreeEvent,
    TruncatedPoissonSampled,
)
from fedopt.privacy.gaussian_dp import gaussian_epsilon

PLD = Pld()

# name: q, z, steps, delta, PLD epsilon, Renyi epsilon (add or remove)
TABLE = {
    "A": (0.01, 1.0, 1000, 1e-5, 1.8282, 2.1014),
    "B": (0.01, 0.6, 10000, 1e-6, 25.4371, 27.5011),
    "C": (0.001, 0.8, 100000, 1e-7, 3.2269, 3.5411),
    "D": (1.0, 10.0, 100, 1e-5, 4.3772, 4.7285),
    "E": (0.05, 2.0, 500, 1e-5, 2.5320, 2.7686),
    "abadi": (0.01, 4.0, 10000, 1e-5, 0.9470, 1.0355),
    "z2": (0.01, 2.0, 1000, 1e-5, 0.6220, 0.6862),
    "mnist": (256 / 60000, 1.1, 14062, 1e-5, 2.3817, 2.5966),
    "q0.1": (0.1, 2.0, 100, 1e-5, 2.3374, 2.5806),
    "q0.1z1": (0.1, 1.0, 100, 1e-5, 7.0466, 7.9039),
    "mcmahan": (5000 / 763430, 1.0, 4980, 1e-9, 3.8913, 4.176),
}

# One release of every kind, with a relation under which it can be bounded.
EVENTS = [
    (GaussianEvent(2.0), "add_or_remove_one"),
    (GaussianEvent(4.0), "replace_one"),
    (LaplaceEvent(4.0), "zero_out_one"),
    (LaplaceEvent(8.0, dimension=5), "replace_one"),
    (PureEvent(0.2), "replace_one"),
    (TreeEvent(20.0, 5), "zero_out_one"),
    (MatrixEvent(8.0, 3.0), "replace_one"),
    (SkellamEvent(1.2, 1.0, 16.0, 100.0), "zero_out_one"),
    (DiscreteGaussianEvent(2.0, 1.0, 0.5, 20.0, 100, 4), "replace_one"),
    (ShuffleEvent(1.0, 2000), "replace_one"),
    (ShuffledSumEvent(20, 1, 8, 200, 0.25), "replace_one"),
    (ShuffledSumEvent(20, 4, 4, 400, 0.5), "zero_out_one"),
    (PoissonSampled(0.05, GaussianEvent(1.0)), "add_or_remove_one"),
    (PoissonSampled(0.05, GaussianEvent(1.0)), "zero_out_one"),
    (PoissonSampled(0.05, GaussianEvent(1.5)), "replace_one"),
    (PoissonSampled(0.05, LaplaceEvent(2.0)), "add_or_remove_one"),
    (PoissonSampled(0.05, PureEvent(0.5, "add_or_remove_one")), "add_or_remove_one"),
    (PoissonSampled(0.1, SkellamEvent(1.2, 1.0, 4.0, 100.0)), "zero_out_one"),
    (PoissonSampled(0.05, Composed((GaussianEvent(2.0), GaussianEvent(3.0)))), "add_or_remove_one"),
    (FixedSizeSampled(10, 1000, GaussianEvent(2.0)), "replace_one"),
    (FixedSizeSampled(50, 1000, ShuffleEvent(1.0, 50)), "replace_one"),
    (TruncatedPoissonSampled(0.05, 200, 20, GaussianEvent(2.0)), "add_or_remove_one"),
]
IDS = [f"{event.kind}-{getattr(getattr(event, 'event', None), 'kind', '')}-{relation}" for event, relation in EVENTS]


@pytest.mark.parametrize("name", TABLE)
def test_reference_values(name):
    q, z, steps, delta, epsilon, _ = TABLE[name]
    event = Repeated(PoissonSampled(q, GaussianEvent(z)), steps)
    assert PLD.epsilon(event, delta, "add_or_remove_one") == pytest.approx(epsilon, abs=3e-4)


def test_replace_one():
    """Traps 1 and 5: the factor 2 of replace-one, and Poisson sampling under replace-one."""
    assert PLD.epsilon(Repeated(GaussianEvent(10.0), 100), 1e-5, "replace_one") == pytest.approx(9.9973, abs=1e-4)
    sampled = Repeated(PoissonSampled(0.01, GaussianEvent(1.0)), 1000)
    assert PLD.epsilon(sampled, 1e-5, "replace_one") == pytest.approx(2.843, abs=1e-3)


def test_zero_out_one_is_accounted_like_add_or_remove_one():
    event = Repeated(PoissonSampled(0.05, GaussianEvent(2.0)), 500)
    assert PLD.epsilon(event, 1e-5, "zero_out_one") == PLD.epsilon(event, 1e-5, "add_or_remove_one")


@pytest.mark.parametrize(("event", "relation"), EVENTS, ids=IDS)
def test_composition_law(event, relation):
    """n times an event = the list of n events = any grouping, for every kind of event."""
    whole = PLD.epsilon(Repeated(event, 6), 1e-6, relation)
    assert PLD.epsilon([event] * 6, 1e-6, relation) == whole
    assert PLD.epsilon([Repeated(event, 2), Composed((event, Repeated(event, 3)))], 1e-6, relation) == whole
    assert whole > PLD.epsilon(event, 1e-6, relation) > 0  # a branch that forgets the count would be equal


@pytest.mark.parametrize(("event", "relation"), EVENTS, ids=IDS)
def test_curve_ends_at_epsilon_and_bounds_every_step(event, relation):
    steps = np.arange(1, 13)
    curve = PLD.epsilon_curve(event, steps, 1e-6, relation)
    assert curve[-1] == PLD.epsilon(Repeated(event, 12), 1e-6, relation)
    assert (np.diff(curve) >= 0).all()
    for step in (1, 5):
        exact = PLD.epsilon(Repeated(event, step), 1e-6, relation)
        assert exact * (1 - 1e-3) <= curve[step - 1] <= exact * 1.02


@pytest.mark.parametrize(
    ("event", "relation"),
    [(e, r) for e, r in EVENTS if not isinstance(e, TruncatedPoissonSampled)],
)
def test_renyi_is_never_below(event, relation):
    """Except where no Renyi bound exists, which is refused, never guessed."""
    for count in (1, 30):
        try:
            renyi = Rdp().epsilon(Repeated(event, count), 1e-6, relation)
        except AccountingError as refusal:
            assert "use accountant: pld" in str(refusal)
            return
        assert renyi >= PLD.epsilon(Repeated(event, count), 1e-6, relation) * (1 - 1e-3) - 1e-4


def test_unsampled_gaussians_are_exact():
    releases = [Repeated(GaussianEvent(3.0), 7), GaussianEvent(1.5), TreeEvent(4.0, 3), MatrixEvent(9.0, 2.0)]
    mu = math.sqrt(7 / 9 + 1 / 2.25 + 3 / 16 + 4 / 81)
    assert PLD.epsilon(releases, 1e-5, "zero_out_one") == pytest.approx(gaussian_epsilon(mu, 1e-5), rel=1e-12)
    # the grid, fed with one more release that costs nothing, agrees
    free = PoissonSampled(1e-9, GaussianEvent(1.0))
    assert PLD.epsilon([*releases, free], 1e-5, "zero_out_one") == pytest.approx(gaussian_epsilon(mu, 1e-5), rel=1e-5)


def test_diff2_composition():
    """mu = sqrt(n1/z1^2 + n2/z2^2); the half split of the card."""
    for n1, n2, z1, z2, epsilon in [
        (10, 90, 6.2189, 18.6568, 3.0),
        (20, 980, 8.7949, 61.5642, 3.0),
        (10, 90, 3.9886, 11.9657, 5.0),
        (20, 980, 5.6407, 39.4847, 5.0),
        (50, 50, 13.9059, 13.9059, 3.0),
    ]:
        spent = PLD.epsilon(
            [Repeated(GaussianEvent(z1), n1), Repeated(GaussianEvent(z2), n2)], 1e-5, "add_or_remove_one"
        )
        assert spent == pytest.approx(epsilon, abs=2e-4)


def test_tree_reference():
    """One participation in a tree over T = 1023 steps has height 10, over T = 1024 height 11; noise multiplier 10."""
    assert PLD.epsilon(TreeEvent(10.0, 10), 1e-5, "zero_out_one") == pytest.approx(1.1994, abs=1e-4)
    assert PLD.epsilon(TreeEvent(10.0, 11), 1e-5, "zero_out_one") == pytest.approx(1.2641, abs=1e-4)
    assert PLD.epsilon(TreeEvent(10.0, 10), 1e-5, "replace_one") == pytest.approx(
        gaussian_epsilon(2 * math.sqrt(10) / 10, 1e-5)
    )


def test_fixed_size_sampling_is_between_an_attainable_pair_and_the_renyi_bound():
    """Trap 2: ignoring the factor 2 claims 3.58 where an attainable pair has at least 13.31."""
    event = Repeated(FixedSizeSampled(100, 10000, GaussianEvent(1.0)), 1000)
    assert 13.31 <= PLD.epsilon(event, 1e-5, "replace_one") <= 20.99


def test_fixed_size_of_everything_is_no_sampling():
    event = FixedSizeSampled(10, 10, GaussianEvent(2.0))
    assert PLD.epsilon(Repeated(event, 5), 1e-5, "replace_one") == pytest.approx(
        gaussian_epsilon(math.sqrt(5), 1e-5), rel=1e-4
    )


def test_truncated_batches_cost_more():
    """Trap 4: capping a Poisson batch at 1.1 times its mean turns 1.83 into 3.20."""
    capped = TruncatedPoissonSampled(0.01, 100_000, 1100, GaussianEvent(1.0))
    assert PLD.epsilon(Repeated(capped, 1000), 1e-5, "add_or_remove_one") == pytest.approx(3.20, abs=5e-3)


def test_client_rate_never_multiplies_record_rate():
    """Trap 6: q = 0.1 x 0.1 claims 1.83; the record rate alone is what counts."""
    claimed = Repeated(PoissonSampled(0.1, PoissonSampled(0.1, GaussianEvent(1.0))), 1000)
    for accountant in (PLD, Rdp()):
        with pytest.raises(AccountingError, match="client sampling rate never multiplies a record sampling rate"):
            accountant.epsilon(claimed, 1e-5, "add_or_remove_one")
    honest = Repeated(PoissonSampled(0.1, GaussianEvent(1.0)), 1000)
    assert PLD.epsilon(honest, 1e-5, "add_or_remove_one") > 7.14


def test_removed_and_added_directions_both_count():
    """The reported value is the larger of both directions, which differ for a sampled Gaussian."""
    from fedopt.privacy.accountants._pairs import pairs_of
    from fedopt.privacy.accountants._pmf import Composer, epsilon_of

    event = PoissonSampled(0.1, GaussianEvent(1.0))
    found = []
    for pair in pairs_of(event, "add_or_remove_one"):
        found.append(epsilon_of(Composer([(pair.pmf(1e-3), 10)]).composed([10]), 1e-5))
    assert len(found) == 2 and abs(found[0] - found[1]) > 0.05
    assert PLD.epsilon(Repeated(event, 10), 1e-5, "add_or_remove_one") == pytest.approx(max(found), rel=1e-3)


def test_poisson_pairs_agree_with_quadrature():
    """The curves of the pairs against direct integration of (P - e^eps Q)+, both directions and replace-one."""
    from scipy.stats import norm

    from fedopt.privacy.accountants._pairs import pairs_of

    x = np.linspace(-25, 25, 400_001)
    epsilon = np.array([0.0, 0.03, 0.2, 1.0])
    for q, z in ((0.05, 0.9), (0.3, 2.0)):
        base, up, down = (norm.pdf(x, shift, z) for shift in (0, 1, -1))
        removed, added = pairs_of(PoissonSampled(q, GaussianEvent(z)), "zero_out_one")
        (replaced,) = pairs_of(PoissonSampled(q, GaussianEvent(z)), "replace_one")
        mixed = (1 - q) * base + q * up
        for curve, first, second in (
            (removed.forward, mixed, base),
            (removed.backward, base, mixed),
            (added.forward, base, mixed),
            (replaced.forward, mixed, (1 - q) * base + q * down),
        ):
            direct = [np.trapezoid(np.maximum(first - np.exp(e) * second, 0), x) for e in epsilon]
            np.testing.assert_allclose(curve(epsilon), direct, rtol=1e-5, atol=1e-9)


def test_laplace_and_pure_by_hand():
    assert PLD.epsilon(PureEvent(0.7), 1e-9, "replace_one") == pytest.approx(0.7, abs=1e-4)
    assert PLD.epsilon(LaplaceEvent(2.0), 1e-9, "zero_out_one") == pytest.approx(0.5, abs=1e-4)
    assert PLD.epsilon(LaplaceEvent(2.0), 1e-9, "replace_one") == pytest.approx(1.0, abs=1e-4)
    sampled = PLD.epsilon(PoissonSampled(0.1, LaplaceEvent(1.0)), 1e-9, "add_or_remove_one")
    assert sampled == pytest.approx(math.log(1 + 0.1 * (math.e - 1)), abs=1e-4)
    # delta of one Laplace release in closed form: 1 - exp((epsilon - 1/b)/2)
    found = PLD.delta(LaplaceEvent(1.0), np.array([0.0, 0.5]), "zero_out_one")
    np.testing.assert_allclose(found, [1 - math.exp(-0.5), 1 - math.exp(-0.25)], rtol=1e-4)


def test_monotone():
    def spent(q=0.05, z=1.0, steps=100, delta=1e-5):
        return PLD.epsilon(Repeated(PoissonSampled(q, GaussianEvent(z)), steps), delta, "zero_out_one")

    assert spent(q=0.04) < spent() < spent(q=0.06)
    assert spent(z=1.1) < spent() < spent(z=0.9)
    assert spent(steps=90) < spent() < spent(steps=110)
    assert spent(delta=1e-4) < spent() < spent(delta=1e-6)
    assert spent(q=1.0) == pytest.approx(gaussian_epsilon(10.0, 1e-5))


def test_edges():
    assert PLD.epsilon([], 1e-5, "zero_out_one") == 0
    assert PLD.epsilon(PoissonSampled(0.0, GaussianEvent(1.0)), 1e-5, "zero_out_one") == pytest.approx(0, abs=1e-3)
    assert PLD.epsilon([GaussianEvent(1.0), NonPrivateEvent("raw norm")], 1e-5, "zero_out_one") == math.inf
    assert PLD.epsilon_curve(NonPrivateEvent("x"), [0, 1], 1e-5, "zero_out_one").tolist() == [0.0, math.inf]
    with pytest.raises(AccountingError, match=r"delta must be in \[1e-12, 1\), got 0"):
        PLD.epsilon(GaussianEvent(1.0), 0.0, "zero_out_one")
    with pytest.raises(AccountingError, match="has no trade-off curve"):
        PLD.delta(ShuffledSumEvent(20, 4, 4, 400, 0.5), np.array([1.0]), "replace_one")


def test_a_release_that_gives_everything_away_makes_epsilon_infinite():
    """Three coins can be in no two neighbouring states of a sum with four levels."""
    coins, before = ShuffledSumEvent(1, 1, 4, 3, 0.5), PoissonSampled(0.05, GaussianEvent(1.0))
    assert PLD.epsilon(coins, 1e-12, "zero_out_one") == math.inf
    assert PLD.delta(coins, np.array([1.0, 50.0]), "zero_out_one").tolist() == [1.0, 1.0]
    assert PLD.epsilon_curve(coins, [0, 1, 2], 1e-5, "zero_out_one").tolist() == [0.0, math.inf, math.inf]
    assert PLD.epsilon_curve(coins, [1], 1e-5, "zero_out_one").tolist() == [math.inf]
    curve = PLD.epsilon_curve([Repeated(before, 2), coins], [1, 2, 3], 1e-5, "zero_out_one")
    assert 0 < curve[0] <= curve[1] < math.inf == curve[2]


def test_the_curve_of_a_release_with_losses_of_every_size_begins_at_zero():
    """A hundred biased coins of one client: a finite epsilon, and a mass of 2e-9 beyond every finite loss."""
    coins = ShuffledSumEvent(1, 1, 4, 100, 0.25)
    curve = PLD.epsilon_curve(coins, [0, 1, 2, 3], 1e-5, "zero_out_one")
    exact = [PLD.epsilon(Repeated(coins, n), 1e-5, "zero_out_one") for n in (1, 2, 3)]
    assert curve[0] == 0 and (curve[1:] >= exact).all() and curve[3] == exact[2] < math.inf


def test_curve_of_changing_events():
    """The k-th value belongs to the first k releases of the schedule."""
    a, b = PoissonSampled(0.05, GaussianEvent(1.0)), PoissonSampled(0.02, GaussianEvent(0.8))
    curve = PLD.epsilon_curve([Repeated(a, 3), b, Repeated(a, 2)], [0, 3, 4, 6], 1e-5, "zero_out_one")
    expected = [[], [Repeated(a, 3)], [Repeated(a, 3), b], [Repeated(a, 5), b]]
    for value, events in zip(curve, expected, strict=True):
        assert value == pytest.approx(PLD.epsilon(events, 1e-5, "zero_out_one"), rel=5e-3)


@pytest.mark.parametrize("accountant", [PLD, Rdp()], ids=["pld", "rdp"])
@pytest.mark.parametrize("event", [GaussianEvent(4.0), PoissonSampled(0.05, GaussianEvent(1.0))])
def test_a_step_of_several_releases_counts_them_all(accountant, event):
    """Three equal releases in every step: after n steps the curve is at 3 n of them, however the step is written."""
    wanted = [accountant.epsilon(Repeated(event, 3 * n), 1e-5, "zero_out_one") for n in (1, 4)]
    step = Composed((event, Repeated(event, 2)))
    for events in (step, [step] * 4, Repeated(step, 4), [Repeated(step, 3), Repeated(Composed((event,) * 3), 1)]):
        curve = accountant.epsilon_curve(events, [1, 4], 1e-5, "zero_out_one")
        np.testing.assert_allclose(curve, wanted, rtol=5e-3)
        assert (curve >= np.array(wanted) * (1 - 1e-9)).all()


def test_ten_thousand_steps_are_a_few_hundred_compositions(monkeypatch):
    """0.13 s on one core where every step composed by itself would take minutes; work is counted, not time."""
    from fedopt.privacy.accountants._pmf import Composer

    event, composed = PoissonSampled(0.01, GaussianEvent(1.03)), Composer.composed
    calls: list[int] = []
    monkeypatch.setattr(Composer, "composed", lambda self, counts: calls.append(1) or composed(self, counts))
    curve = PLD.epsilon_curve(event, np.arange(1, 10_001), 1e-5, "add_or_remove_one")
    assert len(calls) <= 400
    exact = PLD.epsilon(Repeated(event, 1000), 1e-5, "add_or_remove_one")
    assert exact <= curve[999] <= 1.03 * exact


@pytest.mark.parametrize("relation", ["ADD_OR_REMOVE_ONE", "REPLACE_ONE"])
def test_same_as_the_library(relation):
    """dp-accounting's PLD accountant on a mixture of releases, on the same grid."""
    import dp_accounting

    library = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation[relation], 1e-3)
    for q, z, count in ((0.1, 1.5, 40), (0.3, 3.0, 5)):
        inner = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))
        library.compose(inner, count)
    library.compose(dp_accounting.GaussianDpEvent(8.0), 2)
    ours = Pld(grid=1e-3).epsilon(
        [
            Repeated(PoissonSampled(0.1, GaussianEvent(1.5)), 40),
            Repeated(PoissonSampled(0.3, GaussianEvent(3.0)), 5),
            Repeated(GaussianEvent(8.0), 2),
        ],
        1e-5,
        relation.lower(),
    )
    assert ours == pytest.approx(library.get_epsilon(1e-5), rel=1e-4)


def test_truncated_same_as_the_library():
    from dp_accounting.pld import privacy_loss_distribution as library

    made = library.from_truncated_subsampled_gaussian_mechanism(500, 0.05, 30, 1.5, value_discretization_interval=1e-3)
    ours = Pld(grid=1e-3).epsilon(
        Repeated(TruncatedPoissonSampled(0.05, 500, 30, GaussianEvent(1.5)), 50), 1e-5, "add_or_remove_one"
    )
    assert ours == pytest.approx(made.self_compose(50).get_epsilon_for_delta(1e-5), rel=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["A", *(pytest.param(name, marks=pytest.mark.slow) for name in "BC"), "D", "E"])
def test_second_opinion_prv(name):
    """An independent method: the PRV accountant brackets our value."""
    from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

    q, z, steps, delta, _, _ = TABLE[name]
    mechanism = PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=z)
    accountant = PRVAccountant(
        prvs=[mechanism], max_self_compositions=[steps], eps_error=0.01, delta_error=delta / 1000
    )
    low, estimate, high = accountant.compute_epsilon(delta=delta, num_self_compositions=[steps])
    ours = PLD.epsilon(Repeated(PoissonSampled(q, GaussianEvent(z)), steps), delta, "add_or_remove_one")
    assert low <= ours <= high and ours == pytest.approx(estimate, abs=2e-3)
