"""Rows of the ``clients`` table: who took part, with which data and how well the final model serves them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fedopt.protocol import Finished
from fedopt.simulation.assembly import Parts

# Evaluating every client of a huge population would cost more than the run; the report needs a sample only.
EVALUATED_CLIENTS = 2000


def clients_rows(parts: Parts, params: torch.Tensor, evaluate: str, ended: Finished) -> list[dict[str, Any]]:
    """One row per client that took part or is evaluated, ascending client id."""
    data, state = parts.data, parts.server.state
    population = data.clients.num_clients
    evaluated = _evaluated(population) if evaluate == "end" and ended.status != "diverged" else []
    local = _local_metrics(parts, params, evaluated) if evaluated else {}
    spent = parts.server.affordable.client_epsilons(state) if parts.server.affordable is not None else {}
    rows, sizes = [], data.clients.sizes()  # once: they are as many as the population
    for client in sorted({*state.tasks, *evaluated}):
        row: dict[str, Any] = {"client_id": client, "num_examples": int(sizes[client])}
        row["class_counts"] = _class_counts(parts, client)
        row |= local.get(client, {})
        if client in spent:
            row["epsilon"] = spent[client]
        rows.append(row)
    return rows


def _local_metrics(parts: Parts, params: torch.Tensor, clients: list[int]) -> dict[int, dict[str, Any]]:
    found = parts.engine.evaluate_clients(params, clients)
    # Without test shares the engine takes the training examples: these are no test examples.
    tests = found.num_examples if parts.data.client_tests is not None else np.zeros_like(found.num_examples)
    columns = zip(found.metrics.tolist(), found.losses.tolist(), tests.tolist(), strict=True)
    return {
        client: {
            "metric_name": found.metric_name,
            "local_metric": metric,
            "local_loss": loss,
            "num_test_examples": examples,
        }
        for client, (metric, loss, examples) in zip(clients, columns, strict=True)
    }


def _evaluated(population: int) -> list[int]:
    """All clients, or an even sample of a large population."""
    if population <= EVALUATED_CLIENTS:
        return list(range(population))
    return np.linspace(0, population - 1, EVALUATED_CLIENTS).astype(int).tolist()


def _class_counts(parts: Parts, client: int) -> list[int] | None:
    data = parts.data
    if data.task.kind != "classification" or not len(data.train):  # a server without the clients' labels
        return None
    labels = data.train.targets[data.clients.of(client)]
    return np.bincount(labels, minlength=data.task.num_outputs).tolist()
