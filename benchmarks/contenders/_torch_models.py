"""The models in PyTorch, for every contender that uses it."""

from __future__ import annotations

import torch
from torch import nn


def build(kind: str, seed: int) -> nn.Sequential:
    """cnn (1,663,370 parameters), mlp (159,010) or logistic (7,850)."""
    torch.manual_seed(seed)
    if kind == "logistic":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
    first = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))


@torch.no_grad()
def accuracy(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of right answers."""
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum()) for x, y in zip(inputs.split(1000), targets.split(1000), strict=True)
    )
    model.train()
    return right / len(targets)
