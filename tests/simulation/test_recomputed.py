"""Whole runs computed a second time: from their updates table alone, by the papers' formulas, in doubles.

Eight quadratics, work that is cut short and replies that are lost. Who replied to which version with how many steps is
read from the table; every local step and every server step is made again here, sharing no code with the methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedopt
from fedopt.scenario import from_mapping
from fedopt.simulation.session import Session

CLIENTS, DIMENSION, STEPS, RATE, PLANNED = 8, 3, 30, 0.1, 7
TIMES = (1.0, 0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2)
Memory = dict[Any, Any]


class Reply(NamedTuple):
    """One admitted reply: update is end minus start."""

    client: int
    steps: int
    staleness: int
    start: np.ndarray
    update: np.ndarray


def scenario(aggregator: dict[str, Any], changes: dict[str, Any]) -> Any:
    values: dict[str, Any] = {
        "data": {
            "kind": "quadratics", "clients": CLIENTS, "dimension": DIMENSION, "curvature_min": 0.5,
            "curvature_max": 2.0, "center_std": 2.0, "start": 1.0,
        },
        "model": {"kind": "point"},
        "client": {"kind": "sgd", "lr": RATE, "steps": PLANNED},
        "devices": {
            "compute": {"kind": "half_normal"}, "dropout": 0.2,
            "work": {"kind": "partial_uniform", "probability": 0.6},
        },
        "sampling": {"kind": "uniform", "concurrency": 5},
        "aggregator": aggregator,
        "run": {"server_steps": STEPS, "evaluate_every": STEPS},
        "engine": {"device": "cpu", "threads": 1},
    }  # fmt: skip
    return from_mapping({**values, **changes})


def replies_of(run: fedopt.Run) -> list[list[tuple[int, int, int]]]:
    """(client, version, steps) of the admitted replies of every server step, by client and dispatch."""
    used = run.updates[run.updates.status == "admitted"].sort_values(["step", "client_id"], kind="stable")
    rows = list(zip(used.step, used.client_id, used.version, used.local_steps, strict=True))
    return [[(int(c), int(v), int(k)) for s, c, v, k in rows if s == step] for step in range(1, STEPS + 1)]


def trained(
    objective: Any, client: int, start: np.ndarray, steps: int, momentum: float = 0.0, mu: float = 0.0,
    nesterov: bool = False, correction: Any = 0.0,
) -> np.ndarray:  # fmt: skip
    point, velocity = start.copy(), np.zeros(DIMENSION)
    for _ in range(steps):
        gradient = objective.curvatures[client] * (point - objective.centers[client]) + mu * (point - start)
        gradient = gradient + correction
        velocity = momentum * velocity + gradient
        point = point - RATE * (gradient + momentum * velocity if nesterov else velocity)
    return point


def ended(directory: Path, chosen: Any) -> tuple[fedopt.Run, Any, np.ndarray]:
    Session(chosen, directory, quiet=True).run()
    (tensor,) = load_file(directory / "model.safetensors").values()
    return fedopt.open_run(directory), chosen.data.load(chosen.seed).objective, tensor.ravel()


def mean(replies: list[Reply]) -> Any:
    return np.mean([r.update for r in replies], axis=0) if replies else np.zeros(DIMENSION)


def root(staleness: int) -> float:
    return (1 + staleness) ** -0.5


def fedavg(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    return x + 0.7 * mean(replies)


def momentum(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    memory["m"] = 0.9 * memory.get("m", 0.0) + mean(replies)
    return x + 0.3 * memory["m"]


def adaptive(kind: str, beta1: float) -> Callable[..., Any]:
    def server(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
        u, m, v = mean(replies), memory.get("m", 0.0), memory.get("v", np.full(DIMENSION, 1e-6))
        m = beta1 * m + (1 - beta1) * u
        if kind == "adagrad":
            v = v + u**2
        elif kind == "adam":
            v = 0.99 * v + 0.01 * u**2
        else:
            v = v - 0.01 * u**2 * np.sign(v - u**2)
        memory.update(m=m, v=v)
        return x + 0.1 * m / (np.sqrt(v) + 1e-3)

    return server


def fedexp(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    u, epsilon = mean(replies), 0.5 * 0.9**step
    rate = max(1.0, sum(r.update @ r.update for r in replies) / (2 * len(replies) * (u @ u + epsilon)))
    memory["result"] = x + rate * u / 2
    return x + rate * u


def fednova(length: Callable[[int], float], tau_of: Callable[[int], float] | None = None) -> Callable[..., Any]:
    def server(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
        tau = np.mean([(tau_of or length)(r.steps) for r in replies])
        memory["m"] = 0.4 * memory.get("m", 0.0) + tau * np.mean([r.update / length(r.steps) for r in replies], axis=0)
        return x + 0.5 * memory["m"]

    return server


def mifa(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    memory.update({r.client: r.update for r in replies})
    return x + 0.5 * sum(memory.values()) / CLIENTS if len(memory) == CLIENTS else x


def accelerated(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    mirror, aggregate = memory.get("mirror", x), memory.get("result", x)
    mirror, share = mirror + (step + 1) * 0.1 / 2 * mean(replies), 2 / (step + 2)
    aggregate = (1 - share) * aggregate + share * mirror
    memory.update(mirror=mirror, result=aggregate)
    return (1 - 2 / (step + 3)) * aggregate + 2 / (step + 3) * mirror


def fedbuff(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    return x + sum(root(r.staleness) * r.update for r in replies) / 3


def weighted_mean(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    total = sum(root(r.staleness) * r.update for r in replies) / sum(root(r.staleness) for r in replies)
    memory["m"] = 0.5 * memory.get("m", 0.0) + total
    return x + 0.5 * memory["m"]


def by_gap(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    for r in replies:  # a second one in a step finds a gap of 0
        x = x + 0.3 * (step + 1 - memory.get(r.client, 0)) / CLIENTS * r.update
        memory[r.client] = step + 1
    return x


def by_frequency(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    for r in replies:
        memory[r.client] = memory.get(r.client, 0) + 1
        x = x + 0.3 * (step + 1) / memory[r.client] / CLIENTS * r.update
    return x


def fedasync(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    (r,) = replies
    rate = 0.6 * (1.0 if r.staleness <= 2 else 1 / (3 * (r.staleness - 2) + 1))
    return (1 - rate) * x + rate * (r.start + r.update)


def ca2fl(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    cache = memory.setdefault("h", np.zeros((CLIENTS, DIMENSION)))
    before, total = cache.mean(axis=0), np.zeros(DIMENSION)
    for r in replies:
        total, cache[r.client] = total + r.update - cache[r.client], r.update
    return x + 0.5 * (before + total / 3)


def fadas(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    u, stalest = sum(r.update for r in replies) / 3, max(r.staleness for r in replies)
    m = 0.9 * memory.get("m", 0.0) + 0.1 * u
    v = 0.99 * memory.get("v", 0.0) + 0.01 * u**2
    memory.update(m=m, v=v, w=np.maximum(memory.get("w", 0.0), v))
    return x + (0.6 if stalest <= 1 else min(0.6, 1 / stalest)) * m / (np.sqrt(memory["w"]) + 1e-8)


def delayed_nesterov(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    g, m, c, delay = -replies[0].update, memory.get("m", 0.0), 0.2, 4  # the paper's sign
    collected = memory.get("A", 0.0) + g
    if (step + 1) % delay == 0:
        memory.update(m=0.8 * m + collected / delay, A=0.0)
        return x - 0.5 * ((1 - c * delay + c) * 0.8 * memory["m"] + g / delay)
    memory["A"] = collected
    return x - 0.5 * (c * 0.8 * m + g / delay)


def by_speed(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    (r,) = replies
    return x + 0.1 * TIMES[r.client] * sum(1 / t for t in TIMES) / CLIENTS * r.update


def by_ticks(x: Any, replies: list[Reply], memory: Memory, step: int) -> Any:
    return x + 0.5 * sum((math.ceil(round(TIMES[r.client] / 0.35, 9)) / CLIENTS * r.update for r in replies), 0 * x)


FIXED = {"sampling": {"kind": "all"}, "devices": {"compute": {"kind": "constant", "seconds": TIMES}}}
OVER = {"sampling": {"kind": "fixed", "cohort_size": 4, "over_selection": 1.5}}
CUT = {"sampling": {"kind": "fixed", "cohort_size": 4, "deadline_s": 0.8}}
PLAIN, NOVA = {"kind": "constant"}, {"kind": "fednova", "beta": 0.4, "server_lr": 0.5}
CASES: dict[str, tuple[dict[str, Any], Callable[..., Any], dict[str, Any]]] = {
    "fedavg": ({"kind": "fedavg", "server_lr": 0.7}, fedavg, {}),
    "over-selection": ({"kind": "fedavg", "server_lr": 0.7}, fedavg, OVER),
    "deadline": ({"kind": "fedavg", "server_lr": 0.7}, fedavg, CUT),
    "nesterov": ({"kind": "fedavg", "server_lr": 0.7}, fedavg, {"client": {"momentum": 0.5, "nesterov": True}}),
    "proximal": ({"kind": "fedavg", "server_lr": 0.7}, fedavg, {"client": {"momentum": 0.5, "mu": 0.7}}),
    "fedavgm": ({"kind": "fedavgm", "server_lr": 0.3}, momentum, {}),
    "fedadagrad": ({"kind": "fedadagrad"}, adaptive("adagrad", 0.0), {}),
    "fedadam": ({"kind": "fedadam"}, adaptive("adam", 0.9), {}),
    "fedyogi": ({"kind": "fedyogi"}, adaptive("yogi", 0.9), {}),
    "fedexp": ({"kind": "fedexp", "epsilon": 0.5, "epsilon_decay": 0.9}, fedexp, {}),
    "fednova": (NOVA, fednova(float), {}),
    "fednova-momentum": (
        NOVA, fednova(lambda t: (t - 0.6 * (1 - 0.6**t) / 0.4) / 0.4), {"client": {"momentum": 0.6}},
    ),
    "fednova-proximal": (
        {**NOVA, "effective_steps": "local_steps"}, fednova(lambda t: (1 - (1 - 0.07) ** t) / 0.07, float),
        {"client": {"mu": 0.7}},
    ),
    "mifa": ({"kind": "mifa", "server_lr": 0.5}, mifa, {}),
    "accelerated_gradient": ({"kind": "accelerated_gradient", "server_lr": 0.1}, accelerated, {}),
    "fedbuff": ({"kind": "fedbuff", "buffer_size": 3}, fedbuff, {}),
    "fedbuff-weighted": (
        {"kind": "fedbuff", "buffer_size": 2, "normalization": "weighted_mean", "beta": 0.5, "server_lr": 0.5,
         "max_staleness": 1}, weighted_mean, {},
    ),
    "fedbuff-gap": (
        {"kind": "fedbuff", "buffer_size": 3, "weights": "gap", "staleness": PLAIN, "server_lr": 0.3}, by_gap, {},
    ),
    "fedbuff-unbiased": (
        {"kind": "fedbuff", "buffer_size": 3, "weights": "unbiased", "staleness": PLAIN, "server_lr": 0.3},
        by_frequency, {},
    ),
    "fedasync": ({"kind": "fedasync", "staleness": {"kind": "hinge", "a": 3.0, "b": 2.0}}, fedasync, {}),
    "ca2fl": ({"kind": "ca2fl", "buffer_size": 3, "server_lr": 0.5}, ca2fl, {}),
    "fadas": ({"kind": "fadas", "buffer_size": 3, "server_lr": 0.6}, fadas, {}),
    "delayed_nesterov": (
        {"kind": "delayed_nesterov", "activation": 0.2, "beta": 0.8, "server_lr": 0.5}, delayed_nesterov, {},
    ),
    "async_fedavg": ({"kind": "async_fedavg", "server_lr": 0.1}, by_speed, FIXED),
    "async_fedavg-gap": ({"kind": "async_fedavg", "weights": "gap", "server_lr": 0.3}, by_gap, {}),
    "fedfix": ({"kind": "fedfix", "server_step_s": 0.35, "server_lr": 0.5}, by_ticks, FIXED),
    "fedfix-gap": ({"kind": "fedfix", "server_step_s": 0.35, "server_lr": 0.3, "weights": "gap"}, by_gap, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_model_follows_from_the_table(tmp_path: Path, case: str) -> None:
    aggregator, server, changes = CASES[case]
    local = changes.get("client", {})
    kind = "proximal" if "mu" in local else "sgd"
    client = {"client": {"kind": kind, "lr": RATE, "steps": PLANNED, **local}}
    run, objective, model = ended(tmp_path / "run", scenario(aggregator, {**changes, **client}))
    versions, memory = [np.ones(DIMENSION)], dict[Any, Any]()
    for step, members in enumerate(replies_of(run)):
        replies = []
        for member, version, steps in members:
            start = versions[version]
            update = trained(objective, member, start, steps, **local) - start
            replies.append(Reply(member, steps, step - version, start, update))
        versions.append(server(versions[-1], replies, memory, step))
    assert len(run.updates.local_steps.unique()) > 3 or "devices" in changes
    np.testing.assert_allclose(model, memory.get("result", versions[-1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "aggregator, changes",
    [({"kind": "scaffold"}, {}), ({"kind": "scaffold"}, OVER), ({"kind": "buffered_scaffold", "buffer_size": 3}, {})],
    ids=["scaffold", "over-selection", "buffered"],
)
def test_scaffolds_model_and_controls_follow_from_the_table(
    tmp_path: Path, aggregator: dict[str, Any], changes: dict[str, Any]
) -> None:
    client = {"client": {"kind": "scaffold", "lr": RATE, "steps": PLANNED}}
    run, objective, model = ended(tmp_path / "run", scenario(aggregator, {**changes, **client}))
    versions, controls, own = [np.ones(DIMENSION)], [np.zeros(DIMENSION)], np.zeros((CLIENTS, DIMENSION))
    for members in replies_of(run):
        moved = np.zeros(DIMENSION)
        for member, version, steps in members:
            x, c = versions[version], controls[version]
            end = trained(objective, member, x, steps, correction=c - own[member])
            own[member] = own[member] - c + (x - end) / (steps * RATE)
            moved += (end - x) / len(members)
        versions.append(versions[-1] + moved)
        controls.append(own.mean(axis=0))  # the server's own sum must stay this mean
    np.testing.assert_allclose(model, versions[-1], rtol=1e-5, atol=1e-6)
