"""What the parts of a run know of each other."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedopt.simulation.assembly import assemble
from scenarios import small


def test_fedfix_knows_the_expected_ticks_of_random_durations() -> None:
    """Half-normal durations, scale 1: E[ceil(T / dt)] = sum over k of P(T > k dt), within four standard errors."""
    from scipy.stats import halfnorm

    fix = {"kind": "fedfix", "server_step_s": 0.3}
    parts = assemble(small(sampling={"kind": "all"}, aggregator=fix, devices={"compute": {"kind": "half_normal"}}))
    found = np.array(parts.server.state.method.periods)
    clock = parts.clock
    scales = np.array(clock.compute.expected([1] * 12, 1), dtype=float) / np.sqrt(2 / np.pi)
    expected = np.array([halfnorm.sf(0.3 * np.arange(200), scale=s).sum() for s in scales])
    error = scales / 0.3 * 0.61 / np.sqrt(1000)
    assert (np.abs(found - expected) < 4 * error).all()
    assert not (np.abs(found - expected * 1.5) < 4 * error).any()


def test_fixed_durations_stay_exact() -> None:
    fix = {"kind": "fedfix", "server_step_s": 0.2}
    ladder = {"compute": {"kind": "ladder", "slowdown_percent": 80}}
    parts = assemble(small(sampling={"kind": "all"}, aggregator=fix, devices=ladder))
    exact = [float(-(-Fraction(t) // Fraction(1, 5))) for t in parts.server.public.seconds_per_task]
    assert list(parts.server.state.method.periods) == pytest.approx(exact, abs=0)
