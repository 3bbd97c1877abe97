"""fedopt's engine; ``--variant`` is the formulation, with ``-bf16`` behind it for bfloat16."""

from __future__ import annotations

import argparse

import torch
from _measure import Bundle, main
from _torch_models import build
from workloads import BATCH_SIZE, CLIPPING_NORM, LR, MODELS, NOISE_MULTIPLIER, PRIVACY

from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.engine.base import Cohort, ExampleClipping, LocalRule
from fedopt.engine.engine import CohortEngine
from fedopt.models.base import Model
from fedopt.types import Message, Task


class Chosen(Model):
    """The workload's model."""

    name: str
    seed: int

    def build(self, task: Task) -> torch.nn.Module:
        """As the plain loop builds it."""
        return build(self.name, self.seed)


class Ours:
    """FedAvg with uniform weights on the engine."""

    def __init__(self, bundle: Bundle, options: argparse.Namespace):
        formulation, _, dtype = options.variant.partition("-")
        self.privacy = PRIVACY.get(options.workload)
        data = FederatedData(
            Task("classification", (1, 28, 28), 10),
            Examples(bundle.inputs, bundle.targets),
            Examples(bundle.test_inputs, bundle.test_targets),
            ClientIndex(bundle.offsets, bundle.indices),
        )
        self.engine = CohortEngine(
            Chosen(name=MODELS[options.workload], seed=options.seed),
            data,
            formulation=formulation,
            dtype="bfloat16" if dtype == "bf16" else "float32",
            threads=options.threads,
        )
        torch.manual_seed(options.seed)
        self.params, self.version = self.engine.initial_parameters(), 0
        clipping = ExampleClipping(CLIPPING_NORM, NOISE_MULTIPLIER * CLIPPING_NORM)
        self.clipping = clipping if self.privacy == "example" else None
        self.notes = {"description": self.engine.description()}

    def round(self, clients: list[int]) -> None:
        """Train a cohort, average the updates."""
        sizes = self.engine.data.clients.sizes()
        steps = tuple(int(-(-sizes[client] // BATCH_SIZE)) for client in clients)
        message = Message({"params": self.params})
        cohort = Cohort(tuple(clients), (self.version,) * len(clients), (message,) * len(clients), steps, 0)
        plan = self.engine.plan_batches(cohort, BATCH_SIZE)
        rule = LocalRule(torch.full(plan.counts.shape, LR), example_clipping=self.clipping)
        updates = self.engine.train(cohort, rule, plan).updates
        weights = torch.ones(len(clients))
        if self.privacy == "client":
            weights = (CLIPPING_NORM / updates.norms()).clamp(max=1.0)
        total = updates.weighted_sum(weights)
        if self.privacy == "client":
            total += NOISE_MULTIPLIER * CLIPPING_NORM * torch.randn_like(total)
        self.params, self.version = self.params + total / len(clients), self.version + 1

    def accuracy(self) -> float:
        """Test accuracy."""
        return float(self.engine.evaluate(self.params)["accuracy"])


if __name__ == "__main__":
    main(Ours, lambda: {"torch": torch.__version__})
