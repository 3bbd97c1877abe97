"""Private scalars end to end: the ledger, size and independence of the noise, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from zeroth_order_runs import (
    COMFL,
    DIGITS,
    SPSA,
    Quick,
    scenario,
)

from fedopt.clients.dp_spsa import clipped_total
from fedopt.scenario import ConfigurationError
from fedopt.zeroth_order.directions import Directions

EXAMPLES = {"unit": "example", "relation": "add_or_remove_one"}
DPZERO = {"kind": "dp_spsa", "sampling_probability": 0.2, "batch_size": 30}


def private(multiplier: float, norm: float = 1.0) -> dict[str, Any]:
    return {**EXAMPLES, "mechanism": {"kind": "dp_sgd", "clipping_norm": norm, "noise_multiplier": multiplier}}


def test_dpzero_pays_through_the_ledger_and_is_logged():
    from fedopt.privacy.events import GaussianEvent, PoissonSampled
    from fedopt.privacy.spending import epsilon_of

    run = Quick(DPZERO, {**COMFL, "perturbations": 3}, steps=3, data=DIGITS, privacy=private(2.0))
    found = run.parts.server.affordable.exact(run.parts.server.state.tally)
    wanted = epsilon_of(((PoissonSampled(0.2, GaussianEvent(2.0)), 3),), "add_or_remove_one", 1e-5, "pld")
    assert found == pytest.approx(wanted, rel=1e-6)
    assert (run.updates[0]["uplink_bytes"], run.updates[0]["queries"]) == (12, 6)


def test_dpzero_noise_has_its_size_and_is_no_function_of_the_directions():
    """The released scalars with and without noise differ by P * N(0, (m C)^2) / b; other directions, same noise."""

    def scalars(multiplier: float, kind: str) -> np.ndarray:
        run = Quick(DPZERO, {**COMFL, "perturbations": 100, "directions": kind}, steps=1, data=DIGITS,
                    privacy=private(multiplier, 1e-3))  # fmt: skip
        return np.array(run.state.records[0].scalars)

    noise = {kind: scalars(5.0, kind) - scalars(1e-9, kind) for kind in ("rademacher", "gaussian")}
    expected = 100 * 5.0 * 1e-3 / 30 / 6**0.5
    spread = expected / (2 * 100) ** 0.5
    assert abs(noise["gaussian"].std() - expected) < 4 * spread
    assert abs(noise["gaussian"].std() * 1.5 - expected) > 4 * spread
    assert np.allclose(noise["rademacher"], noise["gaussian"], atol=expected * 1e-3)


def test_clipped_total_moves_by_at_most_the_norm():
    draw = torch.Generator().manual_seed(0)
    slopes = torch.randn(50, 4, generator=draw, dtype=torch.float64) * 100
    moved = clipped_total(slopes, 2.0) - clipped_total(slopes[1:], 2.0)
    assert 1.99 < moved.norm() <= 2.0 + 1e-12
    assert torch.allclose(clipped_total(slopes * 1e-6, 2.0), slopes.sum(0) * 1e-6 / 4)


def test_dpzero_clips_every_example_and_divides_by_the_expected_batch():
    """By hand: every example is drawn, its vector of two slopes clipped alone, the sum divided by b and not by n."""
    batch, norm = 50, 2.0
    run = Quick({**DPZERO, "sampling_probability": 1.0, "batch_size": batch}, {**COMFL, "perturbations": 2}, steps=1,
                data={"kind": "digits", "clients": 2}, privacy=private(1e-9, norm))  # fmt: skip
    engine, (record,), wanted, clipped = run.parts.engine, run.state.records, torch.zeros(2, dtype=torch.float64), 0
    stream = Directions("rademacher", len(run.start), record.key)
    for client in range(2):
        examples = torch.from_numpy(run.parts.data.clients.of(client))[None]
        pairs = [stream.pair(run.start, 1e-3, p) for p in range(2)]
        losses = [engine.example_losses(pair, examples.expand(2, -1)).double() for pair in pairs]
        slopes = torch.stack([(both[0] - both[1]) / 2e-3 for both in losses], dim=1) / 2
        lengths = slopes.norm(dim=1, keepdim=True)
        clipped += int((lengths > norm).sum())
        wanted += 2 * (slopes * (norm / lengths).clamp(max=1)).sum(0) / batch / 2
    assert clipped > 20
    torch.testing.assert_close(torch.tensor(record.scalars, dtype=torch.float64), wanted, rtol=1e-4, atol=1e-4)


def test_without_noise_clipping_and_sampling_dpzero_is_mezo():
    alone = {"kind": "digits", "clients": 1}
    plain = Quick({**SPSA, "radius": 1e-3, "batch_size": "full"}, COMFL, steps=2, data=alone)
    batch = len(plain.parts.data.clients.of(0))
    run = Quick({**DPZERO, "sampling_probability": 1.0, "batch_size": batch}, COMFL, steps=2, data=alone,
                privacy=private(1e-12, 1e6))  # fmt: skip
    assert [r.key for r in run.state.records] == [r.key for r in plain.state.records]
    for mine, other in zip(run.state.records, plain.state.records, strict=True):
        assert mine.scalars == pytest.approx(other.scalars, abs=2e-3)


def test_an_empty_batch_is_answered_with_noise_and_paid_for():
    from fedopt.privacy.events import GaussianEvent, PoissonSampled
    from fedopt.privacy.spending import epsilon_of

    rare = {**DPZERO, "sampling_probability": 1e-7}
    run = Quick(rare, COMFL, steps=3, data=DIGITS, privacy=private(2.0))
    assert {row["status"] for row in run.updates} == {"admitted"}
    sizes = [abs(scalar) for record in run.state.records for scalar in record.scalars]
    assert len(sizes) == 3 and min(sizes) > 0
    wanted = epsilon_of(((PoissonSampled(1e-7, GaussianEvent(2.0)), 3),), "add_or_remove_one", 1e-5, "pld")
    assert run.parts.server.affordable.exact(run.parts.server.state.tally) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_refusals_name_a_remedy():
    with pytest.raises(ConfigurationError, match="use decomfl, whose clients share directions, or remove"):
        scenario(SPSA, {"kind": "one_byte"}, data=DIGITS, privacy={"mechanism": {"kind": "gaussian",
                 "noise_multiplier": 1.0}})  # fmt: skip
    with pytest.raises(ValueError, match=r"client: \{kind: spsa\}"):
        Quick(DPZERO, COMFL, data=DIGITS)
