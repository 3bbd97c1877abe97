"""Small cohorts and a runner of one release, without engine or server."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from fedopt.aggregators.base import fixed_mean
from fedopt.engine.base import DenseUpdates
from fedopt.privacy.base import ClientContext, own_mean
from fedopt.privacy.simulated_noise import SimulatedNoise
from fedopt.sampling.base import SamplingClaim
from fedopt.types import Public


class SeededNoise(SimulatedNoise):
    """Named streams, as in a simulation."""

    def __init__(self, seed: int = 0):
        super().__init__(seed)


class Batch:
    """Replies as ``reduce`` sees them."""

    def __init__(self, parts, bound_of, clients, weights):
        self.parts, self.bound_of = parts, bound_of
        self.metas, self.weights = tuple(clients), tuple(weights)

    def part(self, name="update"):
        return self.parts[name]

    def bound(self, name="update"):
        return self.bound_of(name)


def one_release(mechanism, rows, *, weights=None, step=1, noise=None, public=None, state=None, part="update"):
    """Clients, mean over the expected cohort, release: (Release, ClientResult)."""
    rows = torch.as_tensor(rows)
    public = public or Public(len(rows), float(max(1, len(rows))), is_private=True, dimension=rows.shape[1])
    noise = noise or SeededNoise()
    weights = weights or [1.0] * len(rows)
    clients = tuple(range(len(rows)))
    state = mechanism.init(rows.shape[1], public) if state is None else state
    context = ClientContext(clients, (0,) * len(rows), step, noise, public, tuple(weights))
    result = None
    parts = {}
    if len(rows):
        result = mechanism.on_client({part: DenseUpdates(rows)}, context, state)
        parts = result.parts
    batch = Batch(parts, lambda name: mechanism.bound(name, state, public), clients, weights)
    like = torch.zeros(rows.shape[1])
    reduced = {part: fixed_mean(batch, part, like, public.expected_cohort, max(weights, default=1.0))}
    for name in mechanism.own_parts:
        reduced[name] = own_mean(batch, name, mechanism.bound(name, state, public), like, public)
    return mechanism.release(reduced, len(rows), step, state, noise, public), result


def scenario(steps=100, claim=None, max_participations=None, relation="zero_out_one", aggregator=None):
    """The few fields of a scenario that mechanisms look at."""
    aggregator = aggregator or SimpleNamespace(reply_parts=lambda: ("update",))
    return SimpleNamespace(
        run=SimpleNamespace(server_steps=steps),
        sampling=SimpleNamespace(claim=lambda clients, streaming: claim or SamplingClaim("none")),
        privacy=SimpleNamespace(max_participations=max_participations, relation=relation),
        aggregator=aggregator,
    )


def accepts_scale(values: torch.Tensor, std: float) -> bool:
    """Whether the sample variance is within four standard errors of ``std^2`` (normal or flatter values)."""
    n = values.numel()
    ratio = float(values.double().square().mean()) / std**2
    return abs(ratio - 1) < 4 * (2 / n) ** 0.5


def assert_only_this_scale(values: torch.Tensor, std: float) -> None:
    """The right scale is accepted; two thirds and three halves of it are rejected."""
    assert accepts_scale(values, std)
    assert not accepts_scale(values, std * 2 / 3)
    assert not accepts_scale(values, std * 3 / 2)
