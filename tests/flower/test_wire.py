"""What goes over the wire comes back bit for bit, and nothing else gets in."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedopt.flower.wire import FACTS, PARTS, RAW, Form, WireError, digest, encode, facts_of, forms_of, tensors_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.int8])
def test_tensors_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    sent = (torch.randn(3, 4) * 50).to(dtype)
    content = encode({"update": sent}, {})
    got = tensors_of(content, {"update": Form.of(sent)})["update"]
    assert got.dtype == dtype and torch.equal(got, sent)
    assert len(content.array_records[PARTS]["update"].data) == sent.numel() * sent.element_size()


def test_facts_come_back_exactly() -> None:
    facts = {"lr": 0.1 + 0.2, "key": 2**127 + 1, "rows": [[1, 2], [3]], "name": "a\x1fb", "none": None, "yes": True}
    assert facts_of(encode({}, facts)) == facts


@pytest.mark.parametrize(
    "array, message",
    [
        (Array("float32", (4,), "numpy.ndarray", bytes(16)), "not raw numbers"),
        (Array("object", (4,), RAW, bytes(16)), "not raw numbers"),
        (Array("float32", (4,), RAW, bytes(15)), "has 15 bytes"),
        (Array("float32", (-4,), RAW, bytes(16)), "needs another number"),
        (Array("float32", (5,), RAW, bytes(20)), "expected float32"),
        (Array("float64", (4,), RAW, bytes(32)), "is float64"),
        (Array("float32", (4,), RAW, b"\x00\x00\xc0\x7f" * 4), "NaN or infinite"),
    ],
)
def test_anything_unexpected_is_refused(array: Array, message: str) -> None:
    content = RecordDict({PARTS: ArrayRecord({"update": array}), FACTS: ConfigRecord({"json": "{}"})})
    with pytest.raises(WireError, match=message):
        tensors_of(content, {"update": Form("float32", (4,))})


def test_missing_extra_and_large_parts_are_refused() -> None:
    content = encode({"update": torch.zeros(4), "more": torch.zeros(2)}, {})
    with pytest.raises(WireError, match="has parts"):
        tensors_of(content, {"update": Form("float32", (4,))})
    with pytest.raises(WireError, match="24 bytes"):
        tensors_of(content, most_bytes=23)
    with pytest.raises(WireError, match="no tensors"):
        forms_of(RecordDict())
    for text in ("[]", "{", "x" * ((1 << 22) + 1)):
        with pytest.raises(WireError, match="facts"):
            facts_of(RecordDict({FACTS: ConfigRecord({"json": text})}))


def test_objects_cannot_be_sent() -> None:
    with pytest.raises(WireError, match="set cannot be sent"):
        encode({}, {"bad": {1, 2}})


def test_equal_messages_have_equal_digests_and_others_do_not() -> None:
    first = encode({"update": torch.ones(2)}, {"a": 1, "b": 2})
    assert digest(first) == digest(encode({"update": torch.ones(2)}, {"b": 2, "a": 1}))
    assert digest(first) != digest(encode({"update": torch.ones(2)}, {"a": 1, "b": 3}))
    assert digest(first) != digest(encode({"update": torch.tensor([1.0, 2.0])}, {"a": 1, "b": 2}))
