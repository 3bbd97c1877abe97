"""Fabricated run directories with realistic tables, and a small driver of Chromium."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from fedopt.runlog import RunLog

SCENARIO = """name: fashion-fedbuff-dp
seed: 0
data: {kind: fashion_mnist, clients: 120, partition: {kind: dirichlet, alpha: 0.3}}
aggregator: {kind: fedbuff, buffer_size: 5}  # <script>alert("not run")</script>
"""
PRIVACY = {
    "epsilon": 6.3,
    "delta": 1e-5,
    "epsilon_accountant": "pld",
    "unit": "client",
    "relation": "zero_out_one",
    "trust": "central",
    "mechanism": {"kind": "gaussian", "clipping_norm": 1.0},
    "sampling": {"kind": "uniform", "amplification": "none", "sampling_probability": 1.0, "min_separation": None},
    "max_participations": 20,
    "population": 120,
    "hypothetical_population": None,
    "releases": [{"events": [{"kind": "gaussian", "noise_multiplier": 1.1}], "count": 200, "most_of_one_client": 9}],
    "assumptions": ["The server sees every contribution.", "No amplification by sampling is claimed."],
}
CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"]


def round_row(step: int, steps: int, time_s: float, staleness: list[int], private: bool, rng) -> dict:
    """One plausible server step."""
    evaluated = step % 5 == 0
    accuracy = 0.1 + 0.75 * (1 - np.exp(-3 * step / steps)) + 0.01 * rng.standard_normal()
    row = {
        "step": step,
        "phase": "train",
        "time_s": time_s,
        "wall_s": 0.01 * step,
        "participants": len(staleness),
        "lost": int(rng.random() < 0.1),
        "staleness_mean": float(np.mean(staleness)),
        "staleness_max": max(staleness),
        "buffer_size": len(staleness),
        "uplink_bytes": step * 5 * 636_040,
        "downlink_bytes": step * 6 * 636_040,
        "queries": 0,
        "train_loss": 2.3 * np.exp(-2 * step / steps) + 0.05 * rng.random(),
    }
    if evaluated:
        row |= {"test_loss": 2.3 * np.exp(-1.8 * step / steps) + 0.2, "metric_name": "accuracy"}
        row |= {"metric_value": accuracy, "test_accuracy": accuracy}
    if private:
        row |= {"epsilon": 0.45 * step**0.5, "epsilon_accountant": "pld", "delta": 1e-5, "clipping_norm": 1.0}
        row |= {"noise_multiplier": 1.1, "noise_std": 0.0022, "clip_fraction": 0.6, "update_norm": 1.4}
    return row


def fabricate(
    directory: Path, steps: int = 200, clients: int = 120, private: bool = True, status: str = "finished", **more
) -> Path:
    """Write a run directory through ``RunLog``: a buffered asynchronous run with half-normal delays.

    Args:
        directory: run directory, created.
        steps, clients: size of the run.
        private: with epsilon columns and ``privacy.json``.
        status: of ``summary.json``; ``running`` leaves the directory as a kill would.
        more: further or replaced keys of the summary.
    """
    rng = np.random.default_rng(0)
    with RunLog(directory) as log:
        log.start({"name": "fashion-fedbuff-dp", "seed": 0})
        in_flight = [(float(t), 0.0, c, 0) for c, t in enumerate(np.abs(rng.standard_normal(20)))]
        for step in range(1, steps + 1):
            staleness = []
            while len(staleness) < 5:
                in_flight.sort()
                now, sent, client, version = in_flight.pop(0)
                lost = rng.random() < 0.04
                stale = step - 1 - version
                log.add_update(
                    {
                        "client_id": client,
                        "version": version,
                        "step": step,
                        "phase": "train",
                        "staleness": stale,
                        "dispatched_s": sent,
                        "arrived_s": now,
                        "local_steps": 20,
                        "num_examples": 200,
                        "status": "lost" if lost else "admitted",
                        "weight": 0.0 if lost else (1 + stale) ** -0.5,
                        "uplink_bytes": 0 if lost else 636_040,
                        "downlink_bytes": 636_040,
                    }
                )
                if not lost:
                    staleness.append(stale)
                closed = len(staleness) == 5
                started = int(rng.integers(clients))
                in_flight.append(
                    (now + float(np.abs(rng.standard_normal())) + 0.05, now, started, step if closed else step - 1)
                )
            log.add_round(round_row(step, steps, now, staleness, private, rng))
        (directory / "scenario.yaml").write_text(SCENARIO)
        if private:
            (directory / "privacy.json").write_text(json.dumps(PRIVACY))
        if status == "running":
            log.position()
            return directory
        log.finish(_summary(steps, clients, status, now) | more, _clients(clients, rng))
    return directory


def _clients(clients: int, rng) -> list[dict]:
    shares = rng.dirichlet([0.3] * 10, size=clients)
    sizes = rng.lognormal(5, 0.8, size=clients).astype(int) + 10
    local = np.clip(0.82 + 0.1 * rng.standard_normal(clients), 0, 1)
    return [
        {
            "client_id": i,
            "num_examples": int(sizes[i]),
            "class_counts": rng.multinomial(sizes[i], shares[i]),
            "metric_name": "accuracy",
            "local_metric": float(local[i]),
            "num_test_examples": 20,
        }
        for i in range(clients)
    ]


def _summary(steps: int, clients: int, status: str, time_s: float) -> dict:
    return {
        "name": "fashion-fedbuff-dp",
        "status": status,
        "reason": {"diverged": "the model holds NaN after step 7; lower client.lr"}.get(status, "all steps were made"),
        "steps": steps,
        "time_s": time_s,
        "wall_s": 12.3,
        "metric_name": "accuracy",
        "metric_goal": "max",
        "final_metric": 0.8312,
        "best_metric": 0.8401,
        "best_step": steps - 5,
        "uplink_bytes": 636_040_000,
        "downlink_bytes": 763_248_000,
        "dispatches": 6 * steps,
        "admitted": 5 * steps,
        "lost": steps // 5,
        "population": clients + 30,
        "clients_per_second": 97.0,
        "peak_memory_bytes": 512_000_000,
        "seed": 0,
        "device": "cpu",
        "formulation": "dual",
        "model_sha256": "9f" * 32,
        "num_parameters": 159_010,
        "class_names": CLASSES,
        "components": {"aggregator": "fedbuff", "data": "fashion_mnist", "model": "mlp", "client": "sgd"},
        "epsilon": 6.3 if status else None,
        "delta": 1e-5,
        "references": ["Nguyen et al. 2022, Federated Learning with Buffered Asynchronous Aggregation, Algorithm 1"],
        "warnings": ["Fixed-size cohorts are accounted without amplification."],
        "versions": {"fedopt": "0.1.0", "python": "3.11.7"},
        "machine": {"cores": 2, "memory_bytes": 8_000_000_000},
    }


@pytest.fixture
def make_run(tmp_path):
    """``fabricate`` into a fresh directory."""
    return lambda name="run", **options: fabricate(tmp_path / name, **options)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished private run to look at, shared: tests must not change it."""
    return fabricate(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture(scope="session")
def browser():
    """The module ``browser.py`` beside this file."""
    spec = importlib.util.spec_from_file_location("report_browser", Path(__file__).with_name("browser.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
