"""The plain PyTorch loop that a careful user would write: the yardstick. W5 is a plain Opacus loop."""

from __future__ import annotations

import argparse
import copy

import torch
from _measure import Bundle, main
from _torch_models import accuracy, build
from torch import nn
from workloads import BATCH_SIZE, CLIPPING_NORM, LR, MODELS, NOISE_MULTIPLIER, PRIVACY


class Plain:
    """FedAvg with uniform weights, one client after the other."""

    def __init__(self, bundle: Bundle, options: argparse.Namespace):
        torch.set_num_threads(options.threads)
        self.privacy = PRIVACY.get(options.workload)
        self.model = build(MODELS[options.workload], options.seed)
        self.bundle = bundle
        self.inputs, self.targets = torch.from_numpy(bundle.inputs), torch.from_numpy(bundle.targets)
        self.loss = nn.CrossEntropyLoss()
        self.private = self._opacus() if self.privacy == "example" else None

    def _opacus(self):
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        model = GradSampleModule(copy.deepcopy(self.model))
        inner = torch.optim.SGD(model.parameters(), lr=LR)
        made = DPOptimizer(
            inner,
            noise_multiplier=NOISE_MULTIPLIER,
            max_grad_norm=CLIPPING_NORM,
            expected_batch_size=BATCH_SIZE,
        )
        return model, made

    def round(self, clients: list[int]) -> None:
        """Train a cohort, average the updates."""
        start = [p.detach().clone() for p in self.model.parameters()]
        total = [torch.zeros_like(p) for p in start]
        local, optimizer = self._local()
        for client in clients:
            with torch.no_grad():
                for parameter, value in zip(local.parameters(), start, strict=True):
                    parameter.copy_(value)
            self._train(local, optimizer, client)
            with torch.no_grad():
                self._add(total, [p - s for p, s in zip(local.parameters(), start, strict=True)])
        with torch.no_grad():
            for parameter, value, change in zip(self.model.parameters(), start, total, strict=True):
                if self.privacy == "client":
                    change += NOISE_MULTIPLIER * CLIPPING_NORM * torch.randn_like(change)
                parameter.copy_(value + change / len(clients))

    def _local(self):
        if self.private is not None:
            return self.private
        local = copy.deepcopy(self.model)
        return local, torch.optim.SGD(local.parameters(), lr=LR)

    def _train(self, local: nn.Module, optimizer: torch.optim.Optimizer, client: int) -> None:
        mine = torch.from_numpy(self.bundle.of(client))
        for batch in mine[torch.randperm(len(mine))].split(BATCH_SIZE):
            optimizer.zero_grad()
            self.loss(local(self.inputs[batch]), self.targets[batch]).backward()
            optimizer.step()

    def _add(self, total: list[torch.Tensor], update: list[torch.Tensor]) -> None:
        if self.privacy == "client":
            norm = torch.stack([u.norm() for u in update]).norm()
            update = [u * min(1.0, CLIPPING_NORM / float(norm)) for u in update]
        for sum_, each in zip(total, update, strict=True):
            sum_ += each

    def accuracy(self) -> float:
        """Test accuracy."""
        tests = torch.from_numpy(self.bundle.test_inputs), torch.from_numpy(self.bundle.test_targets)
        return accuracy(self.model, *tests)


if __name__ == "__main__":
    main(Plain, lambda: {"torch": torch.__version__})
