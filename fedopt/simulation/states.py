"""Per-client state kept across tasks: only touched clients, spilled to a file beyond a memory limit."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedopt.simulation.tensor_file import Rows


class StateStore:
    """Named state tensors of the clients that have any; everybody else has zeros.

    Args:
        sizes: name -> number of elements; empty when client work is stateless. None: a tensor of any shape and type
            that may change from task to task; then all of the state is kept in memory as it is, empty at first.
        device: where ``get`` puts tensors.
        memory_bytes: beyond this, rows go to a memory-mapped file in ``folder`` (or the system's temporary folder).
        folder: where to spill.
    """

    def __init__(
        self,
        sizes: Mapping[str, int | None],
        device: Any = "cpu",
        memory_bytes: int = 1 << 30,
        folder: Path | None = None,
    ):
        self.names = tuple(sizes)
        self._growing: dict[int, dict[str, torch.Tensor]] | None = {} if None in sizes.values() else None
        self._sizes, self._device = {name: size or 0 for name, size in sizes.items()}, device
        self._width = sum(self._sizes.values())
        self._rows_in_memory = max(1, memory_bytes // max(1, 4 * self._width))
        self._slot: dict[int, int] = {}
        self._memory: list[np.ndarray] = []
        self._folder = folder
        self._file: int | None = None  # descriptor of an unlinked file: the system frees it with the process
        self._mapped: np.ndarray | None = None
        self._capacity = 0

    def __len__(self) -> int:
        return len(self._slot) if self._growing is None else len(self._growing)

    @property
    def spilled(self) -> int:
        """Clients whose state lies in the file."""
        return max(0, len(self._slot) - len(self._memory))

    def get(self, client: int) -> dict[str, torch.Tensor]:
        """State of a client, zeros if it never committed one (empty where sizes may change). Always a copy."""
        if self._growing is not None:
            kept = self._growing.get(client)
            empty = torch.zeros(0, device=self._device)
            return {name: (empty if kept is None else kept[name]).clone() for name in self.names}
        slot = self._slot.get(client)
        row = np.zeros(self._width, dtype=np.float32) if slot is None else self._read(slot)
        return self._split(torch.from_numpy(row.copy()).to(self._device))

    def put(self, client: int, state: dict[str, torch.Tensor]) -> None:
        """Commit a client's state."""
        if self._growing is not None:
            self._growing[client] = {name: state[name] for name in self.names}
            return
        row = torch.cat([state[name].reshape(-1).float().cpu() for name in self.names]).numpy()
        slot = self._slot.setdefault(client, len(self._slot))
        self._write(slot, row)

    def _split(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, row.split([self._sizes[n] for n in self.names]), strict=True))

    def _read(self, slot: int) -> np.ndarray:
        if slot < len(self._memory):
            return self._memory[slot]
        assert self._mapped is not None
        return self._mapped[slot - self._rows_in_memory]

    def _write(self, slot: int, row: np.ndarray) -> None:
        if slot < self._rows_in_memory:
            if slot == len(self._memory):
                self._memory.append(row)
            else:
                self._memory[slot] = row
            return
        spilled = slot - self._rows_in_memory
        if spilled >= self._capacity:
            self._grow(spilled + 1)
        assert self._mapped is not None
        self._mapped[spilled] = row

    def _grow(self, rows: int) -> None:
        self._capacity = max(rows, 2 * self._capacity, 256)
        if self._file is None:
            self._file, name = tempfile.mkstemp(dir=self._folder, prefix="fedopt-states-")
            os.unlink(name)
            weakref.finalize(self, os.close, self._file)
        size = self._capacity * self._width * 4
        os.ftruncate(self._file, size)
        self._mapped = np.frombuffer(mmap.mmap(self._file, size), dtype=np.float32).reshape(-1, self._width)

    def snapshot(self) -> dict[str, Any]:
        """All states, for a checkpoint: who has one, and their rows, copied only when they are asked for."""
        if self._growing is not None:
            return {"growing": dict(self._growing)}
        clients = sorted(self._slot, key=lambda c: self._slot[c])
        return {"clients": clients, "rows": Rows((len(clients), self._width), self._block)}

    def _block(self, start: int, stop: int) -> np.ndarray:
        return np.stack([self._read(slot) for slot in range(start, stop)])

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Take over a snapshot."""
        if self._growing is not None:
            self._growing = dict(snapshot["growing"])
            return
        self._memory = []
        self._slot = {int(client): slot for slot, client in enumerate(snapshot["clients"])}
        slots = iter(range(len(self._slot)))
        for block in snapshot["rows"].blocks():
            for row in block:
                self._write(next(slots), row.copy())
