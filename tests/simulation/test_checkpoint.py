"""Checkpoints: everything a state may hold comes back, nothing else is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fedopt.simulation import checkpoint
from fedopt.simulation.checkpoint import CheckpointError


class Pair(NamedTuple):
    left: torch.Tensor
    right: int


@dataclass
class Box:
    items: list[int]
    when: Fraction


def test_round_trip_of_every_kind_of_value(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    tree = {
        "none": None,
        "flag": True,
        "big": 10**30,
        "float": 0.1 + 0.2,
        "infinite": float("inf"),
        "text": "né",
        "pair": Pair(shared, 3),
        "box": Box([1, 2], Fraction(1, 3)),
        ("tuple", 1): (1, [2, {3: 4}]),
        "set": {3, 1},
        "array": np.arange(4).reshape(2, 2),
        "again": shared,
        "empty": torch.zeros(0),
        "scalar": torch.tensor(2.5),
    }
    checkpoint.save(tmp_path / "c", tree)
    back = checkpoint.load(tmp_path / "c")
    assert back["pair"].right == 3 and back["pair"].left.tolist() == [0.0, 1.0, 2.0]
    assert back["again"] is back["pair"].left  # shared before, shared after: it decides how cohorts are batched
    assert back["big"] == 10**30 and back["float"] == 0.1 + 0.2 and back["infinite"] == float("inf")
    assert back["box"] == Box([1, 2], Fraction(1, 3)) and back[("tuple", 1)] == (1, [2, {3: 4}])
    assert back["set"] == {1, 3} and back["array"].tolist() == [[0, 1], [2, 3]] and back["scalar"].shape == ()
    assert back["none"] is None and back["flag"] is True and back["text"] == "né"


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a function cannot be stored in a checkpoint"):
        checkpoint.save(tmp_path / "c", {"f": lambda: 0})


def test_a_class_that_is_not_loaded_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", Box([1], Fraction(1)))
    text = (tmp_path / "c").read_bytes().replace(b":Box", b":Bax")
    (tmp_path / "d").write_bytes(text)
    with pytest.raises(CheckpointError, match="which this scenario does not use"):
        checkpoint.load(tmp_path / "d")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {"x": torch.zeros(100)})
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:200])
    with pytest.raises(CheckpointError, match="is not a readable checkpoint"):
        checkpoint.load(tmp_path / "c")
