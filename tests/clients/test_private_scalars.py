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
    assert run.updates[0]["uplink_bytes"] == 12


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


def test_refusals_name_a_remedy():
    with pytest.raises(ConfigurationError, match="decomfl shares directions"):
        scenario(SPSA, {"kind": "one_byte"}, data=DIGITS, privacy={"mechanism": {"kind": "gaussian",
                 "noise_multiplier": 1.0}})  # fmt: skip
    with pytest.raises(ValueError, match=r"client: \{kind: spsa\}"):
        Quick(DPZERO, COMFL, data=DIGITS)
