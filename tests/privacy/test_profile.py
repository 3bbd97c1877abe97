"""Ledgers that dominate every client's, and what a run pays for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedopt.privacy.base import Tally
from fedopt.privacy.client_ledgers import worst_profiles
from fedopt.privacy.events import PoissonSampled
from fedopt.privacy.profile import covers, dominating_profile, sampled_profile, with_next
from fedopt.privacy.releases import GaussianEvent, MatrixEvent, ShuffleEvent
from fedopt.privacy.spending import Spending, epsilon_of, largest_count


def spent(profile, relation="zero_out_one"):
    return epsilon_of(tuple(profile), relation, 1e-5, "pld")


def test_a_client_pays_for_the_releases_it_was_part_of():
    tally = Tally()
    for step in range(10):
        tally.record((GaussianEvent(2.0),), [step % 5, 7 if step < 3 else 8])
    assert dominating_profile(tally) == ((GaussianEvent(2.0), 7),)
    assert sampled_profile(tally, 0.1) == ((PoissonSampled(0.1, GaussianEvent(2.0)), 10),)


@pytest.mark.parametrize("seed", range(8))
def test_the_profile_dominates_every_client_and_beats_the_sum_of_maxima(seed):
    """Survivors vary, so the noise does: no client's own ledger costs more than the charged one."""
    draw = np.random.default_rng(seed)
    tally, own = Tally(), {}
    for _ in range(30):
        event = GaussianEvent(float(draw.choice([1.0, 1.2, 1.5, 2.0])))
        clients = draw.choice(12, 4, replace=False).tolist()
        tally.record((event,), clients)
        for client in clients:
            own.setdefault(client, []).append(event)
    charged = spent(dominating_profile(tally))
    worst = max(spent(tuple((event, 1) for event in events)) for events in own.values())
    naive = spent(tuple((events[0], most) for events, most in zip(tally.events, tally.most, strict=True)))
    assert worst <= charged * (1 + 1e-9) and charged <= naive * (1 + 1e-9)


def test_no_release_costs_nothing_and_a_run_level_event_counts_once():
    assert spent(dominating_profile(Tally())) == 0.0
    tally = Tally()
    for _ in range(5):
        tally.record((MatrixEvent(2.0, 1.5),), [])
    assert dominating_profile(tally) == ((MatrixEvent(2.0, 1.5), 1),)
    assert with_next(dominating_profile(tally), (MatrixEvent(2.0, 1.5),), 1.0, None) == ((MatrixEvent(2.0, 1.5), 1),)


def test_shuffles_are_ordered_by_the_messages_delivered():
    tally = Tally()
    tally.record((ShuffleEvent(1.0, 90),), [0, 1])
    tally.record((ShuffleEvent(1.0, 50),), [1, 2])
    assert dominating_profile(tally) == ((ShuffleEvent(1.0, 50), 1), (ShuffleEvent(1.0, 90), 1))


def test_the_next_release_respects_an_enforced_limit():
    event = GaussianEvent(1.0)
    assert with_next(((event, 3),), (event,), 1.0, 3) == ((event, 3),)
    assert with_next(((event, 3),), (event,), 1.0, 5) == ((event, 4),)
    assert with_next((), (event,), 0.2, None) == ((PoissonSampled(0.2, event), 1),)
    dear, cheap = ShuffleEvent(1.0, 8), ShuffleEvent(1.0, 10)
    assert dict(with_next(((cheap, 3),), (dear,), 1.0, 5)) == {cheap: 3, dear: 1}
    assert dict(with_next(((cheap, 3),), (dear,), 1.0, 3)) == {cheap: 2, dear: 1}  # not a fourth
    assert with_next(((dear, 1), (cheap, 2)), (cheap,), 1.0, 3) == ((dear, 1), (cheap, 2))
    assert dict(with_next(((event, 2),), (dear,), 1.0, 2)) == {event: 2, dear: 1}  # of another kind


@pytest.mark.parametrize("seed", range(6))
def test_the_next_release_of_anybody_with_turns_left_is_covered(seed):
    """No client that may still take part ends with a ledger that costs more than the one the stop looks at."""
    draw, limit = np.random.default_rng(seed), 4
    tally, own = Tally(), dict[int, list[GaussianEvent]]()
    for _ in range(14):
        event = GaussianEvent(float(draw.choice([1.0, 1.2, 1.5, 2.0])))
        able = [client for client in range(8) if len(own.get(client, [])) < limit]
        clients = draw.permutation(able)[:3].tolist()
        ahead = spent(with_next(dominating_profile(tally), (event,), 1.0, limit))
        tally.record((event,), clients)
        for client in clients:
            own.setdefault(client, []).append(event)
            assert spent(tuple((e, 1) for e in own[client])) <= ahead * (1 + 1e-9)
        assert spent(dominating_profile(tally)) <= ahead * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_a_covered_ledger_costs_no_more(seed):
    draw = np.random.default_rng(seed)

    def ledger():
        kinds = [ShuffleEvent(1.0, 50), ShuffleEvent(1.0, 80), GaussianEvent(2.0), GaussianEvent(5.0)]
        return tuple((event, int(draw.integers(0, 4))) for event in kinds)

    planned, profile = ledger(), ledger()
    if covers(planned, profile):
        assert spent(profile) <= spent(planned) * (1 + 1e-6)
    (few, a), (more, b), (loud, c), (quiet, d) = planned
    moved = int(draw.integers(0, a + 1)), int(draw.integers(0, c + 1))  # to the cheaper one of the same kind
    cheaper = ((few, a - moved[0]), (more, b + moved[0]), (loud, c - moved[1]), (quiet, d + moved[1]))
    assert covers(planned, cheaper) and spent(cheaper) <= spent(planned) * (1 + 1e-6)
    assert not covers(cheaper, planned) or moved == (0, 0)
    assert covers(planned, planned) and covers(planned, ())
    assert not covers((), ((GaussianEvent(1.0), 1),))
    dear, cheap = ((GaussianEvent(1.0), 1), (GaussianEvent(2.0), 1)), ((GaussianEvent(1.0), 1), (GaussianEvent(3.0), 5))
    assert not covers(cheap, dear)  # the second costliest is dearer, though each alone has a place
    assert not covers(((PoissonSampled(0.1, GaussianEvent(1.0)), 9),), ((PoissonSampled(0.2, GaussianEvent(1.0)), 1),))


def test_only_undominated_client_ledgers_are_composed():
    def profile(rate, steps):
        return ((PoissonSampled(rate, GaussianEvent(1.0)), steps),)

    profiles = {0: profile(0.1, 50), 1: profile(0.2, 20), 2: profile(0.1, 20), 3: profile(0.05, 50), 4: profile(0.3, 1)}
    assert worst_profiles(profiles) == [profile(0.3, 1), profile(0.2, 20), profile(0.1, 50)]
    kept = max(spent(p) for p in worst_profiles(profiles))
    assert kept == pytest.approx(max(spent(p) for p in profiles.values()))


def test_the_live_epsilon_is_a_monotone_upper_bound_that_ends_exact():
    event = PoissonSampled(0.05, GaussianEvent(1.0))
    spending = Spending("zero_out_one", 1e-5, "pld", planned=lambda event: 300)
    shown = [spending.bound(((event, n),)) for n in range(1, 301)]
    assert all(b >= a for a, b in itertools.pairwise(shown))
    for n in (1, 7, 100, 299):
        assert shown[n - 1] >= spending.exact(((event, n),)) * (1 - 1e-6)
    assert shown[-1] == pytest.approx(spending.exact(((event, 300),)))


def test_a_budget_is_affordable_up_to_the_last_release_that_fits():
    event = PoissonSampled(0.05, GaussianEvent(1.0))
    spending = Spending("zero_out_one", 1e-5, "pld", planned=lambda event: None)
    limit = spending.exact(((event, 40),)) * (1 + 1e-6)
    assert spending.affords(((event, 40),), limit)
    assert not spending.affords(((event, 41),), limit)


def test_the_largest_count_is_found_beyond_the_first_guess():
    assert largest_count(lambda n: n <= 17, 3) == 17
