"""What every aggregator file promises: pure, documented, downhill, indifferent to the order of arrivals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedopt.aggregators.base import Method
from fedopt.components import components, dump
from fedopt.engine.base import DenseUpdates
from fedopt.types import Bound, Public, ReplyMeta

PAGES = Path(__file__).resolve().parents[2] / "docs" / "algorithms"
METHODS = components("fedopt.aggregators")
PUBLIC = Public(
    num_clients=10,
    expected_cohort=10,
    num_examples=np.arange(1, 11),
    seconds_per_task=[Fraction(1)] * 10,
    concurrency=10,
)
CENTRES = torch.linspace(-1, 3, 30).reshape(10, 3)
START = torch.tensor([6.0, -5.0, 4.0])


@dataclass
class Replies:
    metas: tuple[ReplyMeta, ...]
    weights: tuple[float, ...]
    parts: dict[str, torch.Tensor]

    def part(self, name: str = "update") -> DenseUpdates:
        return DenseUpdates(self.parts[name])

    def bound(self, name: str = "update") -> Bound:
        return Bound(1.0)


def fresh(method: Method, public: Public = PUBLIC) -> Any:
    state = method.init(START.clone(), public)
    if "params" not in method.payload(state, 0, None).parts or method.plan(state, public).phase != "train":
        pytest.skip("not a method of one exchange that sends its model; its own tests drive it")
    return state


def replies(method: Method, state: Any, order: list[int], public: Public = PUBLIC) -> Replies:
    """One exact gradient step of the clients' quadratics |x - centre|^2 / 2, all fresh."""
    metas = tuple(
        ReplyMeta(dispatch_id=i, client=i, version=0, staleness=0, num_examples=1, local_steps=2, normalizer=2.0,
                  task=0, contributions=0, gap=1) for i in order
    )  # fmt: skip
    weights = tuple(float(method.admit(state, meta, public)) for meta in metas)
    updates = 0.1 * (CENTRES[order] - state.params)
    return Replies(metas, weights, {"update": updates, "control": -updates})


def advance(method: Method, state: Any, order: list[int], public: Public = PUBLIC) -> Any:
    reduced = method.reduce(state, replies(method, state, order, public), public)
    return method.step(state, {name: value for name, (value, _) in reduced.items()}, public)


def cohort(method: Method, state: Any) -> list[int]:
    """As many clients as the exchange closes with."""
    return list(range(10))[: getattr(method.plan(state, PUBLIC).close, "k", 10)]


def plain(value: Any) -> Any:
    """A state as nested lists, failing on what a checkpoint cannot hold."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    assert isinstance(value, int | float | str | bool), f"a checkpoint cannot hold {type(value)}"
    return value


PRIVATE = {"fednova": {"tau_effective": 2.0}, "fadas": {"staleness_limit": None}}  # what privacy makes them ask for


@pytest.fixture(params=sorted(METHODS))
def method(request) -> Method:
    return METHODS[request.param]()


def loss(params: torch.Tensor) -> float:
    return float((params - CENTRES).square().sum())


def test_is_documented(method):
    lines = (type(method).__doc__ or "").strip().splitlines()
    assert lines and lines[0].endswith(".") and "References" in type(method).__doc__
    assert method.references()
    for name, field in type(method).model_fields.items():
        assert field.description, f"{type(method).__name__}.{name} has no description"


def test_has_a_page_with_every_option(method):
    page = (PAGES / f"{method.kind()}.md").read_text()
    missing = [name for name in type(method).model_fields if f"`{name}`" not in page]
    assert not missing, f"docs/algorithms/{method.kind()}.md lacks {missing}"
    assert all(word in page for word in ("**Source.**", "**Status.**", "**What our tests show.**"))


def test_shows_its_settings_and_survives_a_round_trip(method):
    written = dump(method)
    assert all(f"{name}=" in repr(method) for name in written if name != "kind")
    assert type(method)(**{name: value for name, value in written.items() if name != "kind"}) == method


def test_is_frozen(method):
    with pytest.raises(ValueError, match="frozen"):
        setattr(method, next(iter(type(method).model_fields)), 1)


def test_state_can_be_checkpointed_and_params_come_first(method):
    state = fresh(method)
    assert state._fields[0] == "params" and torch.equal(state.params, START)
    after = advance(method, state, cohort(method, state)).state
    assert plain(after)
    assert method.evaluated(after).shape == START.shape


def test_is_pure(method):
    state = fresh(method)
    before, order = plain(state), cohort(method, state)
    first, second = (advance(method, state, order) for _ in range(2))
    assert plain(first.state) == plain(second.state)
    assert plain(state) == before


def test_does_not_write_into_the_replies(method):
    state = fresh(method)
    batch = replies(method, state, cohort(method, state))
    copies = {name: part.clone() for name, part in batch.parts.items()}
    reduced = method.reduce(state, batch, PUBLIC)
    method.step(state, {name: value for name, (value, _) in reduced.items()}, PUBLIC)
    assert all(torch.equal(batch.parts[name], copy) for name, copy in copies.items())


def test_goes_downhill(method):
    state = fresh(method)
    order = cohort(method, state)
    after = advance(method, state, order).state
    assert loss(after.params) < loss(state.params)


def test_order_of_arrivals_does_not_matter(method):
    state = fresh(method)
    order = cohort(method, state)
    forward, backward = (advance(method, state, o).state for o in (order, order[::-1]))
    assert torch.allclose(forward.params, backward.params, rtol=1e-6, atol=1e-6)


def test_an_empty_exchange_of_a_fresh_method_moves_nothing(method):
    state = fresh(method)
    assert torch.equal(advance(method, state, []).state.params, START)


def test_private_release_is_bounded_or_refused(method):
    """Under privacy a method says why it cannot, or every reduced part declares a finite bound."""
    private = replace(PUBLIC, is_private=True)
    if method.problems(private):
        with pytest.raises(ValueError):
            method.init(START.clone(), private)
        return
    state = fresh(method, private)
    reduced = method.reduce(state, replies(method, state, cohort(method, state), private), private)
    for name, (_, bound) in reduced.items():
        assert bound is not None and 0 < bound.l2 < float("inf"), name


def test_one_client_moves_a_private_release_by_at_most_the_bound(method):
    private = replace(PUBLIC, is_private=True)
    method = type(method)(**PRIVATE.get(method.kind(), {}))
    if method.problems(private):
        pytest.skip("refused under privacy")
    state = fresh(method, private)
    batch = replies(method, state, cohort(method, state), private)
    batch.parts = {name: part / part.norm(dim=1, keepdim=True) for name, part in batch.parts.items()}
    full = method.reduce(state, batch, private)
    for row in range(len(batch.metas)):
        kept = {name: part.clone() for name, part in batch.parts.items()}
        for part in kept.values():
            part[row] = 0  # zero out one client
        without = method.reduce(state, replace_parts(batch, kept), private)
        for name, (value, bound) in full.items():
            assert float((value - without[name][0]).norm()) <= bound.l2 * (1 + 1e-5), name


def replace_parts(batch: Replies, parts: dict[str, torch.Tensor]) -> Replies:
    return Replies(batch.metas, batch.weights, parts)
