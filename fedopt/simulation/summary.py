"""What ``summary.json`` says: the facts known before the first step, and the numbers at the end."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Mapping
from typing import Any

import torch

from fedopt import environment
from fedopt.protocol import Finished
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import Parts
from fedopt.types import Ticks


def known(parts: Parts, started_at: str, warnings: list[str]) -> dict[str, Any]:
    """What the summary knows before the first step."""
    described, scenario = parts.engine.description(), parts.scenario
    return {
        "name": scenario.name,
        "seed": scenario.seed,
        "device": str(parts.engine.device),
        "formulation": described["formulation"],
        "chunk": parts.computation.chunk,
        "block": described["block"],
        "threads": described["threads"],
        "num_parameters": parts.engine.spec.size,
        "population": parts.data.clients.num_clients,
        "components": _components(scenario),
        "class_names": list(parts.data.class_names),
        "references": references(parts),
        "versions": environment.versions(),
        "machine": environment.machine(),
        "started_at": started_at,
        "warnings": warnings,
    }


def final(
    parts: Parts,
    ended: Finished,
    now: Ticks,
    wall_s: float,
    evaluation: Mapping[str, Any],
    best: tuple[float, int] | None,
    counts: Mapping[str, int],
) -> dict[str, Any]:
    """The numbers at the end of a run.

    Args:
        parts: of the run.
        ended: why it ended.
        now: virtual time.
        wall_s: real seconds, those before a resume included.
        evaluation: the last one.
        best: metric and step of the best evaluation, or None.
        counts: of admitted and lost replies.
    """
    state = parts.server.state
    return {
        "status": ended.status,
        "reason": ended.reason,
        "steps": state.step,
        "time_s": now / parts.clock.ticks_per_second,
        "wall_s": wall_s,
        "metric_name": evaluation.get("metric_name"),
        "metric_goal": parts.engine.metric_goal,
        "final_metric": evaluation.get("metric_value"),
        "best_metric": best[0] if best else None,
        "best_step": best[1] if best else None,
        "final_test_loss": evaluation.get("loss"),
        "uplink_bytes": state.uplink_bytes,
        "downlink_bytes": state.downlink_bytes,
        "queries": state.queries,
        "dispatches": state.next_dispatch,
        "admitted": counts["admitted"],
        "lost": counts["lost"],
        "clients_per_second": counts["admitted"] / wall_s if wall_s > 0 else None,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_memory_bytes": _device_peak(parts.engine.device),
    }


def model_hash(params: torch.Tensor) -> str:
    """SHA-256 of the parameters as little-endian float32."""
    return hashlib.sha256(params.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()


def references(parts: Parts) -> list[str]:
    """Sources of exactly the methods used."""
    chosen = [parts.scenario.aggregator, parts.server.mechanism]
    found: list[str] = []
    for component in chosen:
        found.extend(component.references() if component is not None else ())
    return list(dict.fromkeys(found))


def _components(scenario: Scenario) -> dict[str, str]:
    parts = {k: getattr(scenario, k) for k in ("data", "model", "client", "sampling", "aggregator")}
    kinds = {name: type(value).kind() for name, value in parts.items()}
    kinds["compute"] = type(scenario.devices.compute).kind()
    if scenario.privacy is not None:
        kinds["mechanism"] = type(scenario.privacy.mechanism).kind()
    return kinds


def _device_peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
