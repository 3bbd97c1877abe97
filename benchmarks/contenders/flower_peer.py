"""Flower's simulation engine (Beutel et al. 2020). Its CPU time is in other processes, so ``run.py`` measures this
contender from outside, as the difference between a long and a short run. The strategy samples its own cohorts.

W4 is its central clipping wrapped around FedAvg. W5 is not run: plain Opacus inside its clients costs what the plain
loop costs, and the simulation on top.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers give way to every other program of the machine
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _torch_models import accuracy, build
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from torch import nn
from workloads import BATCH_SIZE, CLIPPING_NORM, LR, MODELS, NOISE_MULTIPLIER, PRIVACY, Bundle, load, load_once


def client_app(bundle_path: str, kind: str) -> ClientApp:
    """Trains one client."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        bundle = load_once(bundle_path)
        model = build(kind, 0)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        mine = torch.from_numpy(bundle.of(int(context.node_config["partition-id"])))
        inputs, targets = torch.from_numpy(bundle.inputs), torch.from_numpy(bundle.targets)
        for batch in mine[torch.randperm(len(mine))].split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        metrics = MetricRecord({"num-examples": max(1, len(mine))})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def server_app(
    bundle: Bundle,
    kind: str,
    seed: int,
    rounds: int,
    final: dict[str, Any],
    start: ArrayRecord | None = None,
    private: bool = False,
) -> ServerApp:
    """Flower's FedAvg; puts wall seconds per round and accuracy into ``final``.

    Args:
        private: with Flower's central clipping and noise.
        start: the initial model, where its parameters have other names than those of the plain one.
    """
    clients, cohort = len(bundle.offsets) - 1, bundle.cohorts.shape[1]
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_train=cohort / clients, fraction_evaluate=0.0, min_available_nodes=clients)
        if private:
            strategy = DifferentialPrivacyServerSideFixedClipping(strategy, NOISE_MULTIPLIER, CLIPPING_NORM, cohort)
        initial = start if start is not None else ArrayRecord(build(kind, seed).state_dict())
        began = time.perf_counter()
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds)
        final["wall_s"] = (time.perf_counter() - began) / rounds
        model = build(kind, seed)
        values = [array.numpy() for array in result.arrays.values()]
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), values, strict=True):
                parameter.copy_(torch.from_numpy(value.copy()).reshape(parameter.shape))
        tests = torch.from_numpy(bundle.test_inputs), torch.from_numpy(bundle.test_targets)
        final["accuracy"] = accuracy(model, *tests)

    return server


def main() -> None:
    """Run ``--rounds`` rounds and print accuracy, wall time and versions."""
    from flwr.simulation import run_simulation

    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kind, bundle = MODELS[options.workload], load(Path(options.bundle))
    final: dict[str, Any] = {}
    run_simulation(
        server_app=server_app(
            bundle, kind, options.seed, options.rounds, final, private=PRIVACY.get(options.workload) == "client"
        ),
        client_app=client_app(options.bundle, kind),
        num_supernodes=len(bundle.offsets) - 1,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    print(json.dumps({**final, "versions": {name: version(name) for name in ("flwr", "torch", "ray")}}))


if __name__ == "__main__":
    main()
