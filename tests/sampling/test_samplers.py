from collections import Counter

import numpy as np
import pytest

from fedopt.components import components
from fedopt.sampling._draws import selected
from fedopt.sampling.all import All
from fedopt.sampling.fixed import Fixed
from fedopt.sampling.poisson import Poisson
from fedopt.sampling.separated import Separated
from fedopt.sampling.uniform import Uniform


class Population:
    """Everybody but some is ready; counts how many clients were looked at."""

    def __init__(self, num_clients: int, absent=()):
        self.num_clients, self.looked_at = num_clients, 0
        self.ready = np.ones(num_clients, dtype=bool)
        self.ready[list(absent)] = False

    def is_ready(self, clients: np.ndarray) -> np.ndarray:
        self.looked_at += len(clients)
        return self.ready[clients]


def draw(sampler, index=0, population=None, step=0, last=None, seed=0):
    return sampler.draw(index, population or Population(100), last or {}, step, seed)


EVERY = [All(), Fixed(cohort_size=7), Poisson(cohort_size=7), Uniform(concurrency=7), Separated(cohort_size=7)]


def test_every_file_is_tested_here():
    assert {type(s) for s in EVERY} == set(components("fedopt.sampling").values())


@pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("num_clients", [100, 20_000])
def test_draws_are_ascending_distinct_ready_and_repeatable(sampler, num_clients):
    population = Population(num_clients, absent=range(0, num_clients, 3))
    for index in range(20):
        cohort = draw(sampler, index, population)
        assert cohort == sorted(set(cohort))
        assert all(type(c) is int and population.ready[c] for c in cohort)
        assert cohort == draw(sampler, index, population)
    assert draw(sampler, 3, population) != draw(sampler, 4, population) or isinstance(sampler, All)


@pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)
def test_documented_and_claims_nothing_in_a_stream(sampler):
    assert type(sampler).__doc__.strip().splitlines()[0].endswith(".")
    assert sampler.claim(100, streaming=True).kind == "none"
    assert repr(sampler).startswith(type(sampler).__name__)


def test_all_takes_everybody_who_is_ready():
    assert draw(All(), population=Population(6, absent=[2, 5])) == [0, 1, 3, 4]
    assert (All().expected_cohort(6), All().slots(6), All().claim(6, False).kind) == (6, 6, "none")


def test_all_refills_its_own_client_and_new_slots_in_order():
    population = Population(4)
    started = []
    for index in range(4):
        client = All().refill(index, -1, population, 0)
        population.ready[client] = False
        started.append(client)
    assert started == [0, 1, 2, 3]
    assert All().refill(4, 2, population, 0) is None
    population.ready[[1, 2]] = True
    assert All().refill(4, 2, population, 0) == 2
    assert All().refill(4, 3, population, 0) == 1  # 3 is away: its slot helps the smallest ready one


def test_fixed_is_uniform_without_replacement():
    counts = Counter(c for index in range(4000) for c in draw(Fixed(cohort_size=3), index, Population(10)))
    assert sum(counts.values()) == 12_000
    deviation = max(abs(counts[c] - 1200) for c in range(10)) / (4000 * 0.3 * 0.7) ** 0.5
    assert deviation < 4
    weighted = (4000 * 0.3 * 0.7) ** 0.5  # a client drawn 3/2 as often would be found
    assert abs(1200 * 1.5 - 1200) / weighted > 10


def test_rejection_and_listing_agree_in_law():
    """Large populations are sampled by rejection: first and last third of the ids appear equally often."""
    ids = np.array([c for index in range(500) for c in draw(Fixed(cohort_size=20), index, Population(9000))])
    assert abs(ids.mean() - 4499.5) < 4 * 9000 / 12**0.5 / len(ids) ** 0.5


@pytest.mark.parametrize("over, count", [(1.0, 10), (1.1, 11), (1.25, 13), (1.3, 13)])
def test_over_selection_starts_the_ceiling(over, count):
    assert len(draw(Fixed(cohort_size=10, over_selection=over))) == count
    assert Fixed(cohort_size=10, over_selection=over).expected_cohort(100) == 10
    assert len(draw(Uniform(concurrency=10, over_selection=over))) == count
    assert len(draw(Separated(cohort_size=10, over_selection=over))) == count


def test_over_selection_is_multiplied_exactly():
    """1.1 times 50 is 55, though 55.00000000000001 in doubles; the expected cohort is never more than everybody."""
    assert selected(50, 1.1) == 55 and selected(50, 1.11) == 56
    assert Uniform(concurrency=40).expected_cohort(30) == Fixed(cohort_size=40).expected_cohort(30) == 30.0


def test_fewer_ready_than_asked():
    assert draw(Fixed(cohort_size=5), population=Population(8, absent=range(3, 8))) == [0, 1, 2]
    assert draw(Uniform(concurrency=5), population=Population(8, absent=range(8))) == []
    assert draw(Fixed(cohort_size=5), population=Population(9000, absent=range(3, 9000))) == [0, 1, 2]
    assert (Fixed(cohort_size=5).expected_cohort(3), Uniform(concurrency=5).slots(3)) == (3, 3)


def test_poisson_sizes_vary_and_may_be_empty():
    sampler, steps, clients = Poisson(probability=0.05), 4000, 40
    sizes = np.array([len(draw(sampler, index, Population(clients))) for index in range(steps)])
    error = (clients * 0.05 * 0.95 / steps) ** 0.5
    assert abs(sizes.mean() - 2.0) < 4 * error
    assert abs(2.0 * 2 / 3 - 2.0) > 4 * error and abs(2.0 * 3 / 2 - 2.0) > 4 * error
    assert (sizes == 0).mean() == pytest.approx(0.95**40, abs=4 * (0.13 * 0.87 / steps) ** 0.5)
    assert sizes.var() == pytest.approx(clients * 0.05 * 0.95, rel=0.1)


def test_poisson_coins_are_independent_of_who_is_ready():
    sampler = Poisson(probability=0.3)
    everybody, some = draw(sampler, 5), draw(sampler, 5, Population(100, absent=range(50)))
    assert some == [c for c in everybody if c >= 50]


def test_poisson_claims_and_refusals():
    assert Poisson(cohort_size=5).claim(100, streaming=False) == ("poisson", 0.05, None)
    assert Poisson(probability=0.2).expected_cohort(50) == 10
    assert Poisson(probability=0.2, deadline_s=3.0).claim(50, streaming=False).kind == "none"
    with pytest.raises(ValueError, match="exactly one of probability and cohort_size"):
        Poisson()
    with pytest.raises(ValueError, match="voids its amplification; use fixed"):
        Poisson(probability=0.2, over_selection=1.5)
    with pytest.raises(ValueError, match="use sampling: fixed"):
        All(over_selection=2.0)


def test_refills_are_uniform_over_the_ready():
    population = Population(6, absent=[0, 5])
    counts = Counter(Uniform(concurrency=2).refill(index, 0, population, 0) for index in range(4000))
    assert set(counts) == {1, 2, 3, 4}
    assert max(abs(n - 1000) for n in counts.values()) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert Uniform().refill(0, -1, Population(3, absent=range(3)), 0) is None


def test_a_million_clients_cost_as_much_as_a_few():
    population = Population(1_000_000)
    sampler = Uniform(concurrency=100)
    for index in range(200):
        sampler.refill(index, 0, population, 0)
    sampler.draw(0, population, {}, 0, 0)
    assert population.looked_at < 200 * 50 + 1000


@pytest.mark.parametrize("num_clients, cohort_size", [(100, 10), (103, 10), (57, 8)])
def test_separated_rests_between_participations_and_reaches_everybody(num_clients, cohort_size):
    separation = num_clients // cohort_size
    sampler = Separated(cohort_size=cohort_size, min_separation=separation)
    population, last, counts = Population(num_clients), {}, Counter()
    for step in range(60):
        cohort = draw(sampler, step, population, step, last)
        assert len(cohort) == cohort_size
        assert all(step - last[c] >= separation for c in cohort if c in last)
        last.update(dict.fromkeys(cohort, step))
        counts.update(cohort)
    assert len(counts) == num_clients
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sampler.claim(num_clients, streaming=False) == ("separated", 1.0, separation)


def test_separated_leaves_out_the_absent_and_the_recent():
    sampler = Separated(cohort_size=10, min_separation=5)
    everybody = draw(sampler)
    assert draw(sampler, population=Population(100, absent=everybody[:4])) == everybody[4:]
    assert draw(sampler, step=4, last={everybody[0]: 0, everybody[1]: -1}) == everybody[1:]


def test_separated_refuses_what_it_cannot_keep():
    sampler = Separated(cohort_size=10, min_separation=11)
    assert (
        "needs at least 110 clients, got 100; lower cohort_size or min_separation (to 10)"
        in sampler.problems(100, False)[0]
    )
    with pytest.raises(ValueError, match="at least 110 clients"):
        draw(sampler)
    with pytest.raises(ValueError, match="separated needs rounds; use sampling: uniform"):
        sampler.refill(0, -1, Population(100), 0)
    assert Separated(cohort_size=10, min_separation=10).problems(100, False) == ()
