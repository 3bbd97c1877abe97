"""Does DIFF2 beat DP gradient descent on gradient norm and loss at equal epsilon? Wages, epsilon 3 and 5.

    python scenarios/papers/diff2/compare.py [--out DIR] [--kept FILE]

DP-GD is DIFF2 with a restart in every round. Both choose among twelve settings on a tuning seed; five fresh
seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from equal_epsilon import arguments, compare, test_metrics, write  # noqa: E402

from fedopt.clients.gradient_difference import example_gradients  # noqa: E402
from fedopt.simulation.assembly import Parts  # noqa: E402

METHODS = {"DP-GD": {"aggregator.restart_every": 1}, "DIFF2": {}}
GRIDS = {
    "DP-GD": [
        {"aggregator.server_lr": lr, "privacy.mechanism.clipping_norm": norm}
        for lr in (0.03, 0.1, 0.3, 1.0)
        for norm in (3.0, 10.0, 30.0)
    ],
    "DIFF2": [
        {"aggregator.server_lr": lr, "privacy.mechanism.difference_clipping_norm": norm}
        for lr in (0.03, 0.1, 0.3, 1.0)
        for norm in (3.0, 10.0, 30.0)
    ],
}


def measure(parts: Parts, params: torch.Tensor) -> dict[str, float]:
    """Norm of the exact gradient of the objective (mean over clients), and test loss and R2."""
    clients = parts.engine.data.clients
    total = torch.zeros_like(params)
    for client in range(clients.num_clients):
        gradients = example_gradients(parts.engine, params, torch.from_numpy(clients.of(client)))[0]
        total += gradients.mean(0) / clients.num_clients
    train = float(parts.engine.evaluate(params, "train")["loss"])
    return {"gradient_norm": float(total.norm()), "train_loss": train, **test_metrics(parts, params)}


if __name__ == "__main__":
    out, kept = arguments(__doc__, HERE)
    rows, tuned = compare(HERE / "base.yaml", METHODS, GRIDS, (3.0, 5.0), measure, choose_by="train_loss", kept=kept)
    title = "DIFF2 against DP-GD on wages at equal epsilon"
    write(out, title, rows, tuned, "DP-GD", ("gradient_norm", "train_loss", "loss"))
