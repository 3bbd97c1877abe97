"""Privacy noise of a simulation: named seeded streams, so that a run can be repeated. Never for a deployment."""

from __future__ import annotations

from typing import Any

from fedopt.rng import TorchDraws, torch_generator


class SimulatedNoise:
    """Privacy noise of a simulation, from named seeded streams; a deployment never uses it.

    Args:
        seed: the run's seed; who knows it knows the noise.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def draws(self, device: Any, *ids: int) -> TorchDraws:
        """Stream of one draw."""
        return TorchDraws(torch_generator(device, self.seed, "privacy_noise", *ids))

    def example_draws(self, device: Any, purpose: str, client: int, task: int) -> TorchDraws:
        """Stream of the noise inside one client's training (DP-SGD), named by the task."""
        return TorchDraws(torch_generator(device, self.seed, purpose, client, task))
