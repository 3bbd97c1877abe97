"""Single kernels of the engine and the simulator, with pytest-benchmark: ``make bench-kernels``, or

    python -m pytest benchmarks/kernels.py

Separate from the test suite: it only measures, and asserts nothing about time. The sizes are those of W2 (MLP
784-200-10, 50 clients, batches of 10): one step of a block of 16 clients, and one cohort where it is aggregated.
``--benchmark-json`` keeps the numbers, ``--benchmark-compare`` sets two runs side by side.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.engine.base import Cohort, ExampleClipping, LocalRule
from fedopt.engine.engine import CohortEngine
from fedopt.models.base import Model
from fedopt.privacy.mechanisms._parts import clip
from fedopt.rng import TorchDraws, torch_generator
from fedopt.types import Message, Task

pytest.importorskip("pytest_benchmark")
ROWS, COHORT, BATCH, STEPS = 16, 50, 10, 6


class Mlp(Model):
    """784-200-10, or a small CNN."""

    convolutions: bool = False

    def build(self, task: Task) -> nn.Module:
        """The chain."""
        if self.convolutions:
            trunk = [nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()]
            return nn.Sequential(*trunk, nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))


def engine_of(formulation: str, rows: int, model: Model | None = None) -> CohortEngine:
    """An engine over random images, 60 a client."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    count = rows * STEPS * BATCH
    examples = Examples(draw.standard_normal((count, 1, 28, 28), dtype=np.float32), draw.integers(0, 10, count))
    clients = ClientIndex.from_lists(np.split(np.arange(count), rows))
    data = FederatedData(Task("classification", (1, 28, 28), 10), examples, examples, clients)
    return CohortEngine(model or Mlp(), data, formulation=formulation)


def work_of(engine: CohortEngine, rows: int, steps: int, **options: Any) -> Any:
    """A call that trains a cohort, its plan made before."""
    message = Message({"params": engine.initial_parameters()})
    cohort = Cohort(tuple(range(rows)), (0,) * rows, (message,) * rows, (steps,) * rows, 0)
    plan = engine.plan_batches(cohort, BATCH)
    rule = LocalRule(torch.full(plan.counts.shape, 0.05), **options)
    return lambda: engine.train(cohort, rule, plan).updates


@pytest.mark.parametrize("formulation", ["loop", "batched", "dual", "vmap"])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_step(benchmark: Any, formulation: str, steps: int) -> None:
    """Training a block of 16 clients for one step, and for six."""
    benchmark(work_of(engine_of(formulation, ROWS), ROWS, steps))


@pytest.mark.parametrize("formulation", ["loop", "batched"])
def test_convolution_step(benchmark: Any, formulation: str) -> None:
    """One step of a small CNN for 8 clients."""
    benchmark(work_of(engine_of(formulation, 8, Mlp(convolutions=True)), 8, 1))


@pytest.mark.parametrize("formulation", ["batched", "vmap"])
def test_dp_sgd_step(benchmark: Any, formulation: str) -> None:
    """One step with per-example clipping and noise: ghost norms, or gradients of every example."""
    benchmark(work_of(engine_of(formulation, ROWS), ROWS, 1, example_clipping=ExampleClipping(1.0, 1.0)))


@pytest.mark.parametrize("formulation", ["loop", "dual"])
def test_weighted_sum(benchmark: Any, formulation: str) -> None:
    """The sum over a cohort of 50: of rows, or in dual form."""
    updates, weights = work_of(engine_of(formulation, COHORT), COHORT, STEPS)(), torch.rand(COHORT)
    benchmark(lambda: updates.weighted_sum(weights))


@pytest.mark.parametrize("formulation", ["loop", "dual"])
def test_norms_and_clipping(benchmark: Any, formulation: str) -> None:
    """Clipping a cohort of 50 and adding it up; in dual form no row exists."""
    updates, weights = work_of(engine_of(formulation, COHORT), COHORT, STEPS)(), torch.rand(COHORT)

    def clipped() -> torch.Tensor:
        return clip({"update": updates}, 0.01)[0]["update"].weighted_sum(weights)

    benchmark(clipped)


def test_gram_norms(benchmark: Any) -> None:
    """Norms from Gram matrices, as made when training ends."""
    gram, coefficients = torch.randn(ROWS, STEPS * BATCH, STEPS * BATCH), torch.randn(ROWS, STEPS * BATCH, 200)
    benchmark(lambda: (torch.bmm(gram, coefficients) * coefficients).sum((1, 2)))


@pytest.mark.parametrize("numbers", [10_000, 1_000_000])
def test_noise(benchmark: Any, numbers: int) -> None:
    """Normals of one named stream, its generator included."""
    benchmark(lambda: TorchDraws(torch_generator("cpu", 0, "noise", 1, 2)).normal((numbers,)))


@pytest.mark.parametrize("flying", [100, 10_000])
def test_event_heap(benchmark: Any, flying: int) -> None:
    """One event of the virtual clock: the next one out, one more in."""
    draw = np.random.default_rng(0)
    times = draw.integers(1, 10**9, 2**16).tolist()
    heap = [(times[i], 0, i, i, None) for i in range(flying)]
    heapq.heapify(heap)
    position = [0]

    def event() -> None:
        now = heap[0][0]
        position[0] = (position[0] + 1) % len(times)
        heapq.heapreplace(heap, (now + times[position[0]], 0, position[0], position[0], None))

    benchmark(event)


def test_batch_plan(benchmark: Any) -> None:
    """Shuffled batches of a cohort of 50."""
    engine = engine_of("dual", COHORT)
    message = Message({"params": engine.initial_parameters()})
    cohort = Cohort(tuple(range(COHORT)), (0,) * COHORT, (message,) * COHORT, (STEPS,) * COHORT, 0)
    benchmark(lambda: engine.plan_batches(cohort, BATCH))
