"""Blocks of clients on worker threads: the same bits with any number of threads, and cuts of even work."""

import threading

import pytest
import torch

from fedopt.engine import threads
from fedopt.engine.base import ExampleClipping, LocalRule
from fedopt.engine.tasks import even_blocks


@pytest.fixture(autouse=True)
def one_thread_afterwards():
    yield
    threads.use(1)


def train(tiny, count, formulation, rule):
    engine = tiny.engine(formulation, threads=count, block=1)
    cohort = tiny.cohort(engine, (3, 6, 2, 9, 4), versions=2)
    plan = engine.plan_batches(cohort, 4)
    trained = engine.train(cohort, LocalRule(torch.full(plan.counts.shape, 0.1), **rule), plan)
    weights = torch.linspace(0.2, 1.0, 5)
    return trained.updates.rows(), trained.updates.weighted_sum(weights), trained.losses


@pytest.mark.parametrize("formulation", ["loop", "vmap", "batched", "dual"])
@pytest.mark.parametrize("rule", [{}, {"momentum": 0.9}, {"example_clipping": ExampleClipping(0.5, 0.2)}])
def test_threads_change_no_bit(tiny, formulation, rule):
    alone, together = train(tiny, 1, formulation, rule), train(tiny, 3, formulation, rule)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_evaluation_in_threads_gives_the_same_numbers(tiny):
    data = tiny.data(sizes=(3000, 40))
    results = []
    for count in (1, 2):
        engine = tiny.engine("dual", data=data, threads=count)
        results.append(engine.evaluate(engine.initial_parameters()))
    assert results[0] == results[1]


def test_pieces_are_really_computed_side_by_side():
    threads.use(2)
    both = threading.Barrier(2, timeout=20)
    assert threads.in_order(lambda x: (both.wait(), x)[1], [5, 7]) == [5, 7]


def test_order_and_errors():
    threads.use(3)
    assert threads.in_order(lambda x: x * x, range(20)) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        threads.in_order(lambda x: 1 // x, [1, 0, 2])


def test_work_inside_a_worker_stays_there():
    threads.use(2)
    nested = threads.in_order(lambda x: threads.in_order(lambda y: (x, y), [1, 2]), range(4))
    assert nested == [[(x, 1), (x, 2)] for x in range(4)]


def test_operations_use_one_thread(tiny):
    tiny.engine("dual", threads=2)
    assert torch.get_num_threads() == 1
    assert threads.in_order(lambda _: torch.get_num_threads(), range(2)) == [1, 1]


def test_environment_bounds_the_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.available() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads.available() >= 1


def test_blocks_have_even_work():
    steps = [18, 14, 12, 9, 8, 7, 7, 6, 6, 5, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1]
    cuts = even_blocks(steps, 5, 10)
    assert [row for cut in cuts for row in range(20)[cut]] == list(range(20))
    work = [sum(steps[cut]) for cut in cuts]
    assert len(cuts) == 4 and max(work) <= sum(steps) / 4 + max(steps)
    assert len(range(20)[cuts[0]]) < len(range(20)[cuts[-1]])


def test_no_block_is_larger_than_asked():
    cuts = even_blocks([100] + [0] * 9, 3, 4)
    assert range(10)[cuts[0]] == range(1) and max(len(range(10)[cut]) for cut in cuts) <= 4
    assert even_blocks([3, 2], 16, 32) == [slice(0, 2)]


@pytest.mark.parametrize("count", [1, 2])
def test_denormal_numbers_are_zero_inside_and_nowhere_else(count):
    def tiny(_):
        return float(torch.tensor(1e-30) * 1e-12)

    threads.use(count)
    assert threads.in_order(tiny, range(3)) == [0.0] * 3
    assert tiny(0) > 0.0
    with pytest.raises(ZeroDivisionError), threads.without_denormals():
        assert tiny(0) == 0.0
        _ = 1 // 0
    assert tiny(0) > 0.0
