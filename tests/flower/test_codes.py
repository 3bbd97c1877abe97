"""Replies of scalar methods in their bytes: exact there and back, and nothing foreign is decoded."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("flwr")

from fedopt.flower.codes import NotFinite, grow, shrink
from fedopt.flower.wire import num_bytes
from fedopt.zeroth_order import one_byte

SEEDS = {"candidates": 64, "local_steps": 5}


@pytest.mark.parametrize("code", ["sign", "byte"])
def test_coded_scalars_take_one_byte_each_and_come_back_exactly(code: str) -> None:
    values = torch.tensor([-3.5, 0.0, 0.02, 700.0])
    scalars = values.sign() if code == "sign" else one_byte.decode(one_byte.encode(values))
    sent = shrink({"scalars": scalars}, {"code": code})
    assert num_bytes(sent) == 4
    assert torch.equal(grow(sent, {"code": code})["scalars"], scalars)


def test_sums_of_fedkseed_take_eight_bytes_a_step_and_come_back_exactly() -> None:
    sums = torch.zeros(64)
    sums[[0, 7, 63]] = torch.tensor([0.1, -2e-20, 3e20])
    sent = shrink({"accumulated": sums}, SEEDS)
    assert num_bytes(sent) == 8 * 5
    assert torch.equal(grow(sent, SEEDS)["accumulated"], sums)
    dense = {"candidates": 4, "local_steps": 5}  # fewer directions than half the steps: all sums are less
    assert shrink({"accumulated": sums[:4]}, dense)["accumulated"].shape == (4,)


def test_what_no_code_can_say_is_refused() -> None:
    for code in ("sign", "byte"):
        with pytest.raises(NotFinite):
            shrink({"scalars": torch.tensor([1.0, float("nan")])}, {"code": code})
    with pytest.raises(ValueError, match="0x80"):
        grow({"scalars": torch.tensor([0x80], dtype=torch.uint8)}, {"code": "byte"})
    for index, value in ((64, 1.0), (-1, 1.0), (3, float("inf"))):
        pair = torch.tensor([[index, 0]], dtype=torch.int32)
        pair[0, 1] = torch.tensor([value]).view(torch.int32)[0]
        with pytest.raises(ValueError, match="candidate direction"):
            grow({"pairs": pair}, SEEDS)
