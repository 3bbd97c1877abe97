"""Local files of nodes: every side sees only its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedopt.data.node_files import NodeFiles


def write(folder: Path, sizes: list[int]) -> NodeFiles:
    for client, size in enumerate(sizes):
        values = np.full((size, 4), float(client), dtype=np.float32)
        np.savez(folder / f"client-{client}.npz", x_train=values, y_train=np.arange(size) % 3)
    np.savez(folder / "test.npz", x_test=np.zeros((5, 4), np.float32), y_test=np.zeros(5, np.int64))
    options: dict[str, Any] = {"clients": len(sizes), "input_shape": (4,), "num_outputs": 3}
    return NodeFiles(**options, test_path=str(folder / "test.npz"), folder=str(folder))


def test_every_side_sees_only_its_own(tmp_path: Path) -> None:
    settings = write(tmp_path, [4, 6, 5])
    together, node, server = (
        settings.load(0),
        settings.load_node(str(tmp_path / "client-1.npz"), 1),
        settings.load_server(),
    )
    assert together.clients.sizes().tolist() == [4, 6, 5]
    assert node.clients.sizes().tolist() == [0, 6, 0] and len(node.test) == 0
    np.testing.assert_array_equal(node.train.inputs[node.clients.of(1)], together.train.inputs[together.clients.of(1)])
    assert not server.train.inputs.any() and len(server.train) == 1 and len(server.test) == 5
    assert server.clients.sizes().tolist() == [1, 1, 1]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    settings = write(tmp_path, [4])
    with pytest.raises(ValueError, match="the scenario says"):
        settings.model_copy(update={"num_outputs": 2}).load_node(str(tmp_path / "client-0.npz"), 0)
    with pytest.raises(FileNotFoundError, match="lie on the nodes"):
        settings.model_copy(update={"folder": None}).load(0)
    with pytest.raises(FileNotFoundError, match="no file"):
        settings.load_node(str(tmp_path / "other.npz"), 0)
