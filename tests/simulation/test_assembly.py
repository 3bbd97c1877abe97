"""What the parts of a run know of each other."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fedopt.simulation.assembly import assemble
from scenarios import BUFFERED, GAUSSIAN, small


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


POINT: dict[str, Any] = {"model": {"kind": "point"}}
CENTERS: dict[str, Any] = {**POINT, "data": {"kind": "quadratics", "clients": 4, "dimension": 2}}
VALUES: dict[str, Any] = {**POINT, "data": {"kind": "fzoos_quadratics", "clients": 4, "dimension": 2}}
OWN: dict[str, Any] = {
    **POINT,
    "data": {"kind": "user_function", "function": "math:dist", "clients": 4, "dimension": 2},
}
PLAIN = {"client": {"kind": "sgd", "lr": 0.1}, "sampling": {"kind": "all"}}
DIFFERENCES = {"kind": "finite_difference", "local_steps": 1, "count": 2}


def buffer(size: int, **options: Any) -> dict[str, Any]:
    return {**BUFFERED, "aggregator": {"kind": "fedbuff", "buffer_size": size, **options}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (buffer(7, restart="at_step"), r"needs 7 replies, but restart: at_step lets only 6 clients work.*lower buffer"),
        ({**buffer(13, staleness={"kind": "constant"}), "devices": {},
          "client": {"kind": "sgd", "lr": 0.1, "steps": 1, "batch_size": 1},
          "privacy": {"mechanism": GAUSSIAN, "max_participations": 9}}, "needs 13 replies, but under privacy.* are 12"),
        ({**CENTERS, **PLAIN, "aggregator": {"kind": "fedavg", "weights": "num_examples"}}, "no client has examples"),
        ({**VALUES, "client": DIFFERENCES, "sampling": {"kind": "all"}, "aggregator": {"kind": "safeguard",
          "inner": {"kind": "fedavg", "weights": "num_examples"}}}, "no client has examples.*use uniform"),
        ({**CENTERS, "client": {"kind": "gradient_difference"}, "aggregator": {"kind": "diff2"}},
         "gradient_difference works on examples"),
        ({**CENTERS, "client": {"kind": "dp_sgd", "steps": 1, "sampling_probability": 0.5},
          "privacy": {"unit": "example", "mechanism": {"kind": "dp_sgd", "noise_multiplier": 1.0}}},
         "dp_sgd works on examples.*digits"),
        ({**OWN, **PLAIN}, "sgd needs gradients, but these data give values only"),
        ({"client": {**DIFFERENCES, "count": 651}}, "at most 650 directions can be orthogonal in dimension 650"),
        ({**OWN, "client": {"kind": "spsa", "scheme": "jvp"}, "aggregator": {"kind": "decomfl"}}, "needs derivatives"),
    ],
)  # fmt: skip
def test_what_could_not_run_or_would_never_step_is_refused_before_it_starts(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=f"(aggregator|client): .*{words}"):
        assemble(small(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        buffer(6, restart="at_step"),
        buffer(13),  # a client's second reply counts
        {**VALUES, "client": {**DIFFERENCES, "count": 2, "method": "scaffold2"}, "aggregator": {"kind": "scaffold"}},
        {**CENTERS, **PLAIN},
    ],
)
def test_what_can_run_is_not_refused(changes: dict[str, Any]) -> None:
    assert assemble(small(**changes)).server.state.step == 0
