"""One record whose gradient is not finite: its client still replies, and the release moves by no more than the bound.

Both runs draw the same named noise, so one step's models differ by exactly what the record moved.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedopt.api import Run, simulate
from fedopt.data.synthetic import Synthetic
from fedopt.scenario import Scenario
from scenarios import small

CENTRAL = {"unit": "client", "trust": "central", "relation": "zero_out_one", "delta": 1e-5}
LOCAL = {"unit": "client", "trust": "local", "relation": "replace_one", "delta": 1e-5}
EXAMPLE = {"unit": "example", "relation": "replace_one", "delta": 1e-5}
SHUFFLE = {"unit": "client", "trust": "shuffle", "relation": "replace_one", "delta": 1e-3}
CLIENTS, BOUND = 6, 0.5
MINIBATCH = {
    "client": {"kind": "sgd", "lr": 1.0, "batch_size": "full", "steps": 1},
    "aggregator": {"kind": "minibatch_sgd", "server_lr": 1.0},
}


def private(privacy: dict[str, Any], mechanism: dict[str, Any], **changes: Any) -> Scenario:
    return small(
        data={"kind": "synthetic", "clients": CLIENTS, "public": ["num_examples"]},
        privacy={**privacy, "mechanism": {"clipping_norm": BOUND, **mechanism}},
        sampling={"kind": "all"},
        run={"server_steps": 1, "evaluate_every": 1},
        **changes,
    )


# Scenario, and how far one record may move the model: every mean is over 6 clients, replacing moves 2 C.
CASES = {
    "gaussian": (private(CENTRAL, {"kind": "gaussian", "noise_multiplier": 1.0}), 2 * BOUND / CLIENTS),
    "local_gaussian": (private(LOCAL, {"kind": "local_gaussian", "noise_multiplier": 1.0}), 2 * BOUND / CLIENTS),
    "local_laplace": (private(LOCAL, {"kind": "local_laplace", "noise_multiplier": 1.0}), 2 * BOUND / CLIENTS),
    "shuffle_hemisphere": (
        private(SHUFFLE, {"kind": "shuffle_hemisphere", "minimum_clients": 6, "local_epsilon": 1.0}, **MINIBATCH),
        None,  # a randomised direction is another one, of any length
    ),
    "shuffle_vector_sum": (
        private(
            SHUFFLE,
            {"kind": "shuffle_vector_sum", "minimum_clients": 6, "levels": 4, "bits": 200},
            **MINIBATCH,
        ),
        None,  # rounding is drawn anew
    ),
    "distributed_gaussian": (
        private(
            {**CENTRAL, "trust": "distributed"},
            {"kind": "distributed_gaussian", "noise_multiplier": 1.0, "minimum_survivors": 6},
        ),
        2 * BOUND / CLIENTS,
    ),
    "dp_sgd": (
        private(
            EXAMPLE,
            {"kind": "dp_sgd", "noise_multiplier": 1.0},
            client={"kind": "dp_sgd", "lr": 1.0, "batch_size": 4, "steps": 1, "sampling_probability": 1.0},
        ),
        2 * BOUND / 4 / CLIENTS,
    ),
    "diff2": (
        private(
            EXAMPLE,
            {"kind": "diff2", "difference_clipping_norm": 1.0, "noise_multiplier": 1.0},
            client={"kind": "gradient_difference"},
            aggregator={"kind": "diff2", "restart_every": 2, "server_lr": 1.0},
        ),
        2 * BOUND,
    ),
}


def poison(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """The first record of the data set, client 0's, has an enormous feature."""
    original = Synthetic.load

    def load(self: Synthetic, seed: int) -> Any:
        data = original(self, seed)
        inputs = data.train.inputs.copy()
        inputs[data.clients.of(0)[0]] = value
        return replace(data, train=replace(data.train, inputs=inputs))

    monkeypatch.setattr(Synthetic, "load", load)


def facts_of(run: Run) -> tuple[Any, ...]:
    """What an onlooker counts."""
    return run.rounds.participants.tolist(), run.rounds.lost.tolist(), run.updates.status.tolist()


@pytest.mark.parametrize("name", CASES)
def test_a_record_moves_one_release_by_its_bound_and_no_count(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, bound = CASES[name]
    plain = simulate(chosen, tmp_path / "plain")
    # An overflowing feature spoils a whole reply; among clipped gradients it takes a NaN to do so in the first step.
    poison(monkeypatch, float("nan") if name in ("dp_sgd", "diff2") else 1e38)
    changed = simulate(chosen, tmp_path / "changed")
    assert facts_of(plain) == facts_of(changed)
    assert plain.summary["warnings"] == changed.summary["warnings"]
    one, other = (torch.cat([v.flatten() for v in run.parameters().values()]) for run in (plain, changed))
    moved = float((one - other).norm())
    assert moved > 0
    if bound is not None:
        assert moved <= bound * (1 + 1e-4)


def test_the_run_log_counts_such_a_reply_as_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = private(CENTRAL, {"kind": "gaussian", "noise_multiplier": 1.0, "clipping_norm": 1e6})
    assert simulate(chosen, tmp_path / "plain").rounds.clip_fraction.tolist() == [0.0]
    poison(monkeypatch, float("nan"))
    rounds = simulate(chosen, tmp_path / "changed").rounds
    assert rounds.clip_fraction.tolist() == [pytest.approx(1 / CLIENTS)] and rounds.train_loss.notna().all()
