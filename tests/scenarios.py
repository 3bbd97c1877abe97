"""Small scenarios for tests: real digits, seconds at most."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fedopt.problems import ConfigurationError
from fedopt.scenario import Scenario, from_mapping

SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "data": {"kind": "digits", "clients": 12, "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "model": {"kind": "logistic_regression"},
    "client": {"kind": "sgd", "lr": 0.2, "batch_size": 20, "epochs": 1},
    "devices": {"compute": {"kind": "half_normal", "scale": 1.0}},
    "sampling": {"kind": "fixed", "cohort_size": 4},
    "aggregator": {"kind": "fedavg"},
    "run": {"server_steps": 6, "evaluate_every": 2, "checkpoint_every": 2},
    "engine": {"device": "cpu", "threads": 1, "formulation": "loop", "chunk": 8},
}
BUFFERED: dict[str, Any] = {
    "sampling": {"kind": "uniform", "concurrency": 6},
    "aggregator": {"kind": "fedbuff", "buffer_size": 3},
}


def mapping(**changes: Any) -> dict[str, Any]:
    """The small scenario with top-level keys replaced; ``a__b=value`` sets a nested key."""
    body = copy.deepcopy(SMALL)
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = body
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return body


def small(**changes: Any) -> Scenario:
    """The small scenario, checked."""
    return from_mapping(mapping(**changes))


GAUSSIAN: dict[str, Any] = {"kind": "gaussian", "noise_multiplier": 1.0}


def private(changes: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """The small scenario under client-level Gaussian noise, with keys of the privacy section and the top replaced."""
    return mapping(privacy={"mechanism": GAUSSIAN, **(changes or {})}, **top)


def refusal(body: dict[str, Any]) -> str:
    """What a scenario is refused with."""
    with pytest.raises(ConfigurationError) as caught:
        from_mapping(body)
    return str(caught.value)


def batch_normalised(task: Any) -> Any:
    """A module whose examples see each other."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, task.num_outputs))
