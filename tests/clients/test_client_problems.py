"""What client work refuses is found when the scenario is read, before data are loaded."""

from __future__ import annotations

from typing import Any

import pytest
from zeroth_order_runs import COMFL, QUADRATICS, SPSA

from fedopt.scenario import from_mapping
from fedopt.simulation.assembly import assemble
from scenarios import mapping, refusal

FUNCTION = {"kind": "user_function", "function": "nobody:Bowls", "dimension": 6}
DP_SGD = {"kind": "dp_sgd", "noise_multiplier": 1.0, "clipping_norm": 1.0}
DPZERO = {"kind": "dp_spsa", "sampling_probability": 0.2, "batch_size": 30}


def body(data: Any, client: Any, aggregator: Any = "fedavg", **more: Any) -> dict[str, Any]:
    black_box = {"data": data, "model": "point"} if data else {}
    return mapping(client=client, aggregator=aggregator, sampling="all", **black_box, **more)


@pytest.mark.parametrize("data", [FUNCTION, {"kind": "quadratics", "dimension": 6}, {**QUADRATICS, "dimension": 6}])
@pytest.mark.parametrize("directions", ["orthogonal", "orthogonal_unscaled", "distinct_coordinates"])
def test_more_different_directions_than_dimensions(data: Any, directions: str) -> None:
    client = {"kind": "finite_difference", "directions": directions, "count": 7}
    assert refusal(body(data, client)) == (
        f"client.count: at most 6 directions can be {directions} in dimension 6, and count is 7; set it to 6 or less, "
        "or directions: gaussian"
    )
    from_mapping(body(data, {**client, "count": 6}))
    from_mapping(body(data, {**client, "directions": "gaussian"}))
    from_mapping(body(None, client))  # what a model's dimension is, only the built model says


@pytest.mark.parametrize(
    "method, aggregator, told",
    [
        ("fedzo", "gradient_correction", "fedzo makes no correction; use aggregator: {kind: fedavg}"),
        ("fedprox", "gradient_correction", "fedprox makes no correction"),
        ("fedzo", "scaffold", "fedzo sends no control back; use method: scaffold2, or aggregator: {kind: fedavg}"),
        ("scaffold1", "fedavg", "scaffold1 needs a second exchange; use aggregator: {kind: gradient_correction"),
        ("scaffold1", {"kind": "gradient_correction", "exchanges": 1}, "scaffold1 needs a second exchange"),
        ("scaffold1", "scaffold", "scaffold1 needs a second exchange"),
        ("scaffold2", "fedavg", "scaffold2 needs the mean control; use aggregator: {kind: scaffold}"),
        ("scaffold2", "gradient_correction", "scaffold2 needs the mean control"),
    ],
)
def test_a_method_without_its_aggregator(method: str, aggregator: Any, told: str) -> None:
    client = {"kind": "finite_difference", "method": method, "count": 2}
    assert refusal(body(QUADRATICS, client, aggregator)).startswith(f"client.method: {told}")
    own = {"scaffold1": "gradient_correction", "scaffold2": "scaffold"}.get(method, "fedavg")
    from_mapping(body(QUADRATICS, client, own))
    from_mapping(body(QUADRATICS, client, {"kind": "safeguard", "inner": own}))


def test_forward_differences_save_nothing_along_own_directions() -> None:
    forward = {**SPSA, "scheme": "forward"}
    assert refusal(body(None, forward, "one_byte")).startswith("client.scheme: aggregator one_byte draws a batch")
    from_mapping(body(None, forward, COMFL))


def test_scalars_are_sent_to_the_aggregators_that_take_them() -> None:
    told = "client.kind: spsa sends scalars, but aggregator {} takes update from replies; use client: "
    found = refusal(body(None, SPSA, "fedavg"))
    assert found.startswith(told.format("fedavg"))
    assert found.endswith(", or an aggregator that takes scalars: decomfl, feedsign, one_byte")
    found = refusal(body(None, SPSA, {"kind": "fedbuff", "buffer_size": 2}))
    assert found.startswith(told.format("fedbuff"))
    assert found.endswith(", or an aggregator that takes scalars: decomfl with buffer_size, one_byte with buffer_size")
    assert "or an aggregator" not in refusal(body(None, "sgd", "decomfl"))  # most aggregators take an update


def test_private_scalars_need_privacy_one_step_and_flat_clipping() -> None:
    privacy: dict[str, Any] = {"unit": "example", "mechanism": DP_SGD}
    from_mapping(body(None, DPZERO, COMFL, privacy=privacy))
    assert refusal(body(None, DPZERO, {**COMFL, "local_steps": 2}, privacy=privacy)) == (
        "client.kind: dp_spsa makes one step of scalars; use aggregator: {kind: decomfl, local_steps: 1}"
    )
    from_mapping(body(None, SPSA, {**COMFL, "local_steps": 2}))
    assert refusal(body(None, DPZERO, COMFL)) == (
        "client.kind: dp_spsa clips and adds noise only under a privacy section; add privacy with unit: example and "
        "mechanism: {kind: dp_sgd}, or use client: {kind: spsa}"
    )
    privacy["mechanism"] = {**DP_SGD, "clipping": "automatic"}
    assert refusal(body(None, DPZERO, COMFL, privacy=privacy)) == (
        "privacy.mechanism.clipping: is automatic, but client dp_spsa clips scalars; use flat"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"candidates": 10, "active_queries": 11}, "client.active_queries: is 11, but candidates is 10; lower it, or "
         "raise candidates"),
        ({"global_candidates": 49}, "client.global_active_queries: is 50, but global_candidates is 49; lower it, or "
         "raise global_candidates"),
        ({"candidates": 10, "active_queries": 10}, ""),
        ({"candidates": 0, "global_candidates": 0}, ""),
    ],
)  # fmt: skip
def test_no_more_candidates_are_queried_than_drawn(options: dict[str, int], told: str) -> None:
    scenario = body(QUADRATICS, {"kind": "fzoos", **options}, "gradient_correction")
    if told:
        assert refusal(scenario) == told
    else:
        from_mapping(scenario)


@pytest.mark.parametrize("kind", ["dp_spsa", "dp_sgd"])
def test_a_denominator_beyond_every_expected_batch_is_warned_of(kind: str) -> None:
    """The largest of the twelve clients holds 235 examples, so it expects 47 of them."""
    method = {"kind": "decomfl", "step_size": 0.01} if kind == "dp_spsa" else "fedavg"
    privacy = {"unit": "example", "relation": "add_or_remove_one", "mechanism": DP_SGD}

    def warned(size: int) -> tuple[str, ...]:
        client = {"kind": kind, "batch_size": size, "sampling_probability": 0.2, "steps": 1}
        made = assemble(from_mapping(body(None, client, method, privacy=privacy)))
        assert made.data.clients.sizes().max() == 235
        return tuple(w for w in made.warnings if w.startswith("client.batch_size"))

    (said,) = warned(940)
    assert "no client expects more than 47 examples in a batch: its replies are at least 20 times too small" in said
    assert warned(94) == () and warned(95)
