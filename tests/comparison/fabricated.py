"""Fabricated run directories whose numbers are known: no training, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedopt.runlog import RunLog
from fedopt.yaml_writer import to_yaml

GAUSSIAN = {"kind": "gaussian", "noise_multiplier": 4.0}


def privacy(epsilon: float, **more: Any) -> dict[str, Any]:
    """A ``privacy.json`` of one Gaussian release."""
    return {
        "epsilon": epsilon,
        "delta": 1e-5,
        "epsilon_accountant": "pld",
        "unit": "client",
        "relation": "zero_out_one",
        "trust": "central",
        "hypothetical_population": None,
        "charged": [[{"event": GAUSSIAN, "count": 5}]],
    } | more


def fabricate(
    directory: Path,
    metrics: list[float],
    seed: int = 0,
    document: dict[str, Any] | None = None,
    status: str = "finished",
    scenario: dict[str, Any] | None = None,
    clients: tuple[float, ...] = (),
    examples: int = 5,
    queries: int = 0,
    seconds: float = 1.0,
) -> Path:
    """A run that evaluated ``metrics`` after steps 0, 1, ...; step k ends at k seconds after 100 k bytes each way.

    Args:
        directory: run directory, created.
        metrics: accuracies.
        seed: of the run.
        document: ``privacy.json``; its epsilon is reached linearly.
        status: of the summary; ``running`` is a run that was killed after its last step.
        scenario: keys of ``scenario.yaml`` besides name and seed.
        clients: local accuracy of every client.
        examples: of every client.
        queries: of every step.
        seconds: of every step.
    """
    last = len(metrics) - 1
    with RunLog(directory) as log:
        log.start({"name": "made", "seed": seed})
        for step, value in enumerate(metrics):
            row = {"step": step, "phase": "train", "time_s": seconds * step, "wall_s": 0.1 * step, "participants": 2}
            row |= {"lost": 0, "uplink_bytes": 100 * step, "downlink_bytes": 100 * step}
            row["queries"] = queries * step
            row |= {"metric_name": "accuracy", "metric_value": value, "test_loss": 1 - value, "test_accuracy": value}
            if document is not None:
                row |= {"epsilon": document["epsilon"] * step / max(1, last), "delta": document["delta"]}
            log.add_round(row)
        if document is not None:
            (directory / "privacy.json").write_text(json.dumps(document))
        (directory / "scenario.yaml").write_text(to_yaml({"name": "made", "seed": seed, **(scenario or {})}))
        if status == "running":
            return directory
        summary = {
            "name": "made",
            "seed": seed,
            "status": status,
            "reason": "as planned",
            "steps": last,
            "time_s": seconds * last,
            "wall_s": 0.1 * last,
            "metric_name": "accuracy",
            "metric_goal": "max",
            "final_metric": metrics[-1],
            "final_test_loss": 1 - metrics[-1],
            "uplink_bytes": 100 * last,
            "downlink_bytes": 100 * last,
            "queries": queries * last,
            "population": len(clients),
            "references": ["Somebody 2020, A Method"],
            "warnings": [],
        }
        if document is not None:
            summary |= {"epsilon": document["epsilon"], "delta": document["delta"]}
        rows = [
            {"client_id": i, "num_examples": examples, "metric_name": "accuracy", "local_metric": value}
            for i, value in enumerate(clients)
        ]
        log.finish(summary, rows)
    return directory


def curve(steps: int, end: float, seed: int) -> list[float]:
    """A plausible learning curve with a little noise."""
    noise = np.random.default_rng(seed).normal(0, 0.01, steps + 1)
    rise = end * (1 - np.exp(-4 * np.arange(steps + 1) / steps))
    return np.clip(rise + noise, 0, 1).tolist()
