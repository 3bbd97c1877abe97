"""Small private scenarios that audits and checks run on."""

from __future__ import annotations

ROUNDS = {
    "name": "audited",
    "data": {"kind": "digits", "clients": 30, "partition": {"kind": "dirichlet", "alpha": 0.3}},
    "model": {"kind": "logistic_regression"},
    "client": {"kind": "sgd", "lr": 0.2, "batch_size": 20, "steps": 1},
    "sampling": {"kind": "poisson", "cohort_size": 15},
    "aggregator": {"kind": "fedavg"},
    "privacy": {
        "relation": "add_or_remove_one",
        "mechanism": {"kind": "gaussian", "clipping_norm": 0.5, "noise_multiplier": 1.0},
        "delta": 1e-3,
    },
    "run": {"server_steps": 4},
    "engine": {"device": "cpu", "threads": 1},
}
BUFFERED = {
    **ROUNDS,
    "data": {"kind": "digits", "clients": 6},
    "devices": {"compute": {"kind": "half_normal", "scale": 1.0}},
    "sampling": {"kind": "uniform", "concurrency": 6},
    "aggregator": {"kind": "fedbuff", "buffer_size": 5},
    "privacy": {**ROUNDS["privacy"], "relation": "zero_out_one", "max_participations": 20},
    "run": {"server_steps": 10},
}
EXAMPLES = {
    **ROUNDS,
    "client": {"kind": "dp_sgd", "lr": 0.5, "batch_size": 16, "sampling_probability": 0.3, "steps": 5},
    "privacy": {
        "unit": "example",
        "mechanism": {"kind": "dp_sgd", "clipping_norm": 1.0, "noise_multiplier": 1.0},
        "delta": 1e-3,
    },
}
FIXED = {
    **ROUNDS,
    "sampling": {"kind": "fixed", "cohort_size": 15},
    "privacy": {**ROUNDS["privacy"], "relation": "zero_out_one"},
}
# Enough canaries for a certified bound to say something on every seed: with 30 it is 0 on every other one.
MANY = {**FIXED, "data": {**ROUNDS["data"], "clients": 150}, "sampling": {"kind": "all"}}
ADAM = {**ROUNDS, "aggregator": {"kind": "fedadam", "server_lr": 0.1}}
