"""Which examples a run trains on and is judged by: the whole data, or parts kept apart for tuning."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from fedopt import rng
from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.scenario import Scenario

WHOLE, FIRST_HALF, SECOND_HALF, HELD_OUT = "whole", "first_half", "second_half", "held_out"


def split_data(data: FederatedData, split: str) -> FederatedData:
    """The data as one kind of run sees it.

    * ``whole``: as it is.
    * ``first_half`` / ``second_half``: of the shuffled test set; training unchanged.
    * ``held_out:SHARE``: that share of every client's training examples is taken away and becomes the test set.

    Raises:
        ValueError: too few examples to split, or a black-box task, which has none.
    """
    if split == WHOLE:
        return data
    if data.objective is not None:
        raise ValueError("a black-box task has no examples to hold out; use tune.data: objective")
    data = data.materialised()
    if split.startswith(HELD_OUT):
        return _held_out(data, float(split.partition(":")[2]))
    order = rng.generator(0, "comparison test halves").permutation(len(data.test))
    parts = np.array_split(order, 2)
    chosen = parts[0 if split == FIRST_HALF else 1]
    halved = _tested_on(data, data.test, chosen)
    return halved if data.client_tests is None else replace(halved, client_tests=_within(data.client_tests, chosen))


def _within(shares: ClientIndex, chosen: np.ndarray) -> ClientIndex:
    """The clients' own test shares, restricted to the chosen test examples."""
    position = {int(old): new for new, old in enumerate(chosen)}
    own = [[position[int(i)] for i in shares.of(c) if int(i) in position] for c in range(shares.num_clients)]
    return ClientIndex.from_lists([np.array(indices, np.int64) for indices in own])


def _held_out(data: FederatedData, share: float) -> FederatedData:
    """Takes floor(share * n_i + 1/2) examples of every client, never all."""
    kept, taken = [], []
    for client in range(data.clients.num_clients):
        own = rng.generator(0, "comparison held out", client).permutation(data.clients.of(client))
        away = min(int(share * len(own) + 0.5), max(0, len(own) - 1))
        taken.append(own[:away])
        kept.append(np.sort(own[away:]))
    # An example that several clients hold must not be trained on by one and judged by another.
    held = np.unique(np.concatenate(taken)) if taken else np.zeros(0, np.int64)
    kept = [own[~np.isin(own, held)] for own in kept]
    if len(held) == 0:
        held, kept = _whole_clients(data, share)
    return _tested_on(replace(data, clients=ClientIndex.from_lists(kept)), data.train, held.astype(np.int64))


def _whole_clients(data: FederatedData, share: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """With one example per client nothing can be taken from a client: its example is replaced by another client's.

    The number of clients stays, so that cohorts and noise stay comparable; some examples are then held twice.
    """
    clients = data.clients.num_clients
    order = rng.generator(0, "comparison held out clients").permutation(clients)
    away = int(share * clients + 0.5)
    if not 0 < away < clients:
        raise ValueError(f"{clients} clients with one example each are too few to hold out a share of {share:g}")
    held = np.concatenate([data.clients.of(int(c)) for c in order[:away]])
    kept = [data.clients.of(c) for c in range(clients)]
    for i, client in enumerate(order[:away]):
        kept[int(client)] = kept[int(order[away + i % (clients - away)])]
    return held, [own[~np.isin(own, held)] for own in kept]


def _tested_on(data: FederatedData, pool: Examples, chosen: np.ndarray) -> FederatedData:
    if len(chosen) == 0:
        raise ValueError("no examples are left to judge by; use more data or another tune.data")
    groups = None if pool.groups is None else pool.groups[chosen]
    return replace(data, test=Examples(pool.inputs[chosen], pool.targets[chosen], groups), client_tests=None)


class SharedExamples:
    """Examples of several runs' data; equal ones are kept once."""

    def __init__(self) -> None:
        self._known: list[Any] = []

    def of(self, data: FederatedData) -> FederatedData:
        """The same data, with examples another run already has in the place of equal ones."""
        return replace(data, train=self._same(data.train), test=self._same(data.test))

    def _same(self, examples: Any) -> Any:
        for known in self._known:
            fields = ((known.inputs, examples.inputs), (known.targets, examples.targets))
            if all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in fields) and known.groups is examples.groups:
                return known
        self._known.append(examples)
        return examples


def data_of(scenario: Scenario, split: str) -> FederatedData:
    """Loaded and split data, the last few kept: most runs of a comparison share them."""
    return _cached(_Key(scenario), split)


class _Key:
    """A scenario that equals another with the same data and seed."""

    def __init__(self, scenario: Scenario):
        self.scenario = scenario
        self._name = (scenario.data.kind(), repr(scenario.data), scenario.seed)

    def __hash__(self) -> int:
        return hash(self._name)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Key) and self._name == other._name


@lru_cache(maxsize=4)
def _cached(key: _Key, split: str) -> FederatedData:
    return split_data(key.scenario.data.load(key.scenario.seed), split)
