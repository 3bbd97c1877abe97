"""Client state: zeros at first, committed values afterwards, also when they lie in a file."""

from __future__ import annotations

import pytest
import torch

from fedopt.simulation.states import StateStore


@pytest.mark.parametrize("memory_bytes", [1 << 20, 4 * 3 * 2])
def test_states_come_back_whether_spilled_or_not(memory_bytes: int) -> None:
    store = StateStore({"a": 2, "b": 1}, memory_bytes=memory_bytes)
    assert store.get(7)["a"].tolist() == [0.0, 0.0]
    for client in range(300):
        store.put(client, {"a": torch.tensor([client, 1.0]), "b": torch.tensor([-client * 1.0])})
    store.put(5, {"a": torch.tensor([50.0, 2.0]), "b": torch.tensor([0.5])})
    assert store.get(5)["a"].tolist() == [50.0, 2.0] and store.get(5)["b"].tolist() == [0.5]
    assert store.get(299)["a"].tolist() == [299.0, 1.0] and len(store) == 300
    assert store.spilled == (0 if memory_bytes > 1000 else 298)


def test_a_snapshot_restores_everything() -> None:
    store = StateStore({"a": 2}, memory_bytes=16)
    for client in (4, 900_000, 17):
        store.put(client, {"a": torch.tensor([client * 1.0, 3.0])})
    other = StateStore({"a": 2}, memory_bytes=16)
    other.restore(store.snapshot())
    assert other.get(900_000)["a"].tolist() == [900_000.0, 3.0] and other.get(1)["a"].tolist() == [0.0, 0.0]


def test_what_get_returns_is_a_copy() -> None:
    store = StateStore({"a": 1})
    store.put(0, {"a": torch.tensor([1.0])})
    store.get(0)["a"].add_(5)
    assert store.get(0)["a"].tolist() == [1.0]
