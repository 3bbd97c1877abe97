"""What functions as clients share: coefficients on the point's device, and a population without examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedopt.data.base import ClientIndex, Examples, FederatedData, Objective
from fedopt.types import Task

if TYPE_CHECKING:
    import torch


def per_client(table: np.ndarray, clients: Any, like: torch.Tensor) -> torch.Tensor:
    """Rows of a coefficient table ``[N, d]`` for a cohort, ``[cohort, d]`` on the device and in the precision of
    ``like``; a copy per call, so coefficients are kept once, in float64."""
    import torch

    chosen = np.asarray(clients.cpu() if isinstance(clients, torch.Tensor) else clients, dtype=np.int64)
    return torch.as_tensor(table[chosen], dtype=like.dtype, device=like.device)


def noisy(values: torch.Tensor, noise_std: float, draw: torch.Tensor | None) -> torch.Tensor:
    """Values plus ``noise_std`` times standard normals ``draw`` of the same shape; exact where draw is None."""
    return values if draw is None or noise_std == 0.0 else values + noise_std * draw.to(values)


def black_box(objective: Objective, source: dict[str, Any]) -> FederatedData:
    """Federated data of an objective: no examples, clients are functions."""
    shape = (objective.dimension,)
    nothing = Examples(np.zeros((0, *shape), dtype=np.float32), np.zeros(0, dtype=np.float32))
    offsets = np.zeros(objective.num_clients + 1, dtype=np.int64)
    index = ClientIndex(offsets, np.zeros(0, dtype=np.int64))
    return FederatedData(Task("black_box", shape, 1), nothing, nothing, index, objective=objective, source=source)
