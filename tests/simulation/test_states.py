"""Client state: zeros at first, committed values afterwards, also when they lie in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from fedopt.simulation import checkpoint
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


def test_a_checkpoint_writes_and_reads_states_a_block_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, store = range(2500), StateStore({"a": 3}, memory_bytes=100 * 12)
    for client in clients:
        store.put(client, {"a": torch.tensor([client * 1.0, 2.0, 3.0])})
    asked: list[int] = []
    block = StateStore._block

    def counting(self: StateStore, start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return block(self, start, stop)

    monkeypatch.setattr(StateStore, "_block", counting)
    checkpoint.save(tmp_path / "c", {"states": store.snapshot(), "other": torch.ones(2, dtype=torch.float64)})
    assert asked == [1024, 1024, 452]
    with safe_open(tmp_path / "c", framework="np") as file:  # an ordinary safetensors file
        assert sorted(file.get_slice(name).get_shape() for name in file.keys()) == [[2], [2500, 3]]  # noqa: SIM118
    back = StateStore({"a": 3}, memory_bytes=100 * 12)
    loaded = checkpoint.load(tmp_path / "c")
    back.restore(loaded["states"])
    assert loaded["other"].tolist() == [1.0, 1.0] and back.spilled == 2400
    assert [back.get(client)["a"].tolist() for client in clients] == [[float(c), 2.0, 3.0] for c in clients]
