"""A Flower app on fedopt's virtual clock: the ServerApp and, as ``--variant plain``, the very ClientApp that
``flower_peer.py`` runs in Flower's simulation; as ``--variant ours`` fedopt's vectorised client work under the same
ServerApp. Prints accuracy, wall and CPU seconds per round."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from flower_peer import client_app, server_app
from flwr.app import Context, RecordDict
from workloads import BATCH_SIZE, LR, MODELS, Bundle, load

from fedopt.data.base import ClientIndex, Examples, FederatedData
from fedopt.flower.vectorized import FlowerMessages
from fedopt.flower.virtual_grid import VirtualGrid
from fedopt.scenario import from_mapping
from fedopt.types import Task

HIDDEN = {"mlp": {"kind": "mlp", "hidden": [200]}, "logistic": {"kind": "logistic_regression"}}


def vectorised(bundle: Bundle, kind: str) -> FlowerMessages:
    """fedopt's client work on the bundle's data, answering messages of Flower's strategies."""
    scenario = from_mapping(
        {
            "data": {"kind": "synthetic", "clients": len(bundle.offsets) - 1},  # replaced by the bundle's
            "model": HIDDEN[kind],
            "client": {"kind": "sgd", "lr": LR, "batch_size": BATCH_SIZE, "epochs": 1},
            "engine": {"device": "cpu", "threads": 1},
            "run": {"server_steps": 1},
        }
    )
    data = FederatedData(
        Task("classification", (1, 28, 28), 10),
        Examples(bundle.inputs, bundle.targets),
        Examples(bundle.test_inputs, bundle.test_targets),
        ClientIndex(bundle.offsets, bundle.indices),
    )
    return FlowerMessages(scenario, data, in_process=True)


def main() -> None:
    """Run ``--rounds`` rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--variant", choices=("plain", "ours"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kind, bundle = MODELS[options.workload], load(Path(options.bundle))
    ours = vectorised(bundle, kind) if options.variant == "ours" else None

    def run(rounds: int) -> dict[str, Any]:
        final: dict[str, Any] = {}
        start = ours.arrays() if ours is not None else None
        server = server_app(bundle, kind, options.seed, rounds, final, start)
        clients, cohort_call = client_app(options.bundle, kind), ours.answer if ours is not None else None
        grid = VirtualGrid(clients, len(bundle.offsets) - 1, seed=options.seed, cohort_call=cohort_call)
        random.seed(options.seed)  # Flower's strategies draw their cohorts from it
        server(grid, Context(1, 0, {}, RecordDict(), {}))
        return final

    run(1)  # the first round imports and prepares; it is left out of Flower's time as well
    gc.collect()
    began = time.process_time()
    final = run(options.rounds)
    final["cpu_s"] = (time.process_time() - began) / options.rounds
    print(json.dumps({**final, "versions": {name: version(name) for name in ("flwr", "torch")}}))


if __name__ == "__main__":
    main()
