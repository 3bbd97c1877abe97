"""From a scenario to the objects of a run: data, engine, devices, server, computation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedopt.clients.base import ClientWork
from fedopt.data.base import FederatedData
from fedopt.devices.base import Fleet
from fedopt.engine.engine import CohortEngine
from fedopt.models._inspect import mixing_layers
from fedopt.privacy.base import Mechanism, Noise
from fedopt.privacy.simulated_noise import SimulatedNoise
from fedopt.scenario import Scenario, ignored_by_functions
from fedopt.server import Limits, Server
from fedopt.simulation.computation import Computation
from fedopt.simulation.endless import never_full
from fedopt.simulation.expected_times import LISTED_CLIENTS, equal_work_seconds, expected_ceil, expected_seconds
from fedopt.simulation.fleet import DeviceClock
from fedopt.simulation.states import StateStore
from fedopt.types import Message, ParamSpec, Public


@dataclass(frozen=True)
class Parts:
    """Everything a run is made of."""

    scenario: Scenario
    data: FederatedData
    engine: CohortEngine
    clock: DeviceClock
    server: Server
    computation: Computation
    warnings: tuple[str, ...] = ()


def choose_device(wanted: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        ValueError: CUDA asked for and not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("engine.device is cuda but PyTorch sees no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _engine(scenario: Scenario, data: FederatedData) -> CohortEngine:
    settings = scenario.engine
    return CohortEngine(
        scenario.model,
        data,
        choose_device(settings.device),
        scenario.seed,
        formulation=settings.formulation,
        chunk=settings.chunk,
        dtype=settings.dtype,
        threads=settings.threads,
        block=settings.block,
    )


def initial_parameters(scenario: Scenario) -> torch.Tensor:
    """Parameters ``[d]`` a run of the scenario starts from."""
    return _engine(scenario, scenario.data.load(scenario.seed)).initial_parameters()


def assemble(scenario: Scenario, data: FederatedData | None = None, noise: Noise | None = None) -> Parts:
    """Build a run.

    Args:
        scenario: a checked scenario.
        data: already loaded data (several runs of a comparison share it), or None.
        noise: source of privacy noise; None is the simulation's seeded streams. A deployment gives ``SystemNoise()``.
    Raises:
        FileNotFoundError, ValueError: the data or the model do not fit; the message says what to change.
    """
    data = data or scenario.data.load(scenario.seed)
    settings = scenario.engine
    engine = _engine(scenario, data)
    clock = DeviceClock(scenario.devices, _fleet(scenario, data))
    params = engine.initial_parameters()
    public = replace(_public(scenario, data, clock), dimension=params.numel())
    _refuse(scenario, public, engine, data)
    source = SimulatedNoise(scenario.seed) if noise is None else noise
    mechanism, affordable, warnings = _privacy(scenario, public)
    work = protected(scenario.client, engine.spec, mechanism, noise)
    server = Server(
        scenario.aggregator,
        scenario.sampling,
        public,
        params,
        _limits(scenario, clock),
        clock.ticks_per_second,
        scenario.seed,
        work_of=_work_of(work, data, clock, engine, mechanism),
        mechanism=mechanism,
        noise=source,
        affordable=affordable,
    )
    memory = int(settings.memory_gib * 2**30)
    states = StateStore(work.initial_state(engine.spec), engine.device, memory)
    computation = Computation(
        engine,
        work,
        public,
        scenario.seed,
        engine.chunk_rows(),
        memory,
        states,
        mechanism=mechanism,
        noise=source,
    )
    if noise is None:  # a deployment knows no numbers of examples, and must not tell them
        warnings = (*warnings, *scenario.client.warnings(data.clients.sizes()))
    return Parts(scenario, data, engine, clock, server, computation, warnings)


def _refuse(scenario: Scenario, public: Public, engine: Any, data: FederatedData) -> None:
    """Problems that only the loaded data, the model and the devices show.

    Raises:
        ValueError: all of them together.
    """
    exchange = scenario.aggregator.plan(None, public)
    found = [f"sampling: {m}" for m in scenario.sampling.problems(public.num_clients, exchange.pacing == "stream")]
    found += [f"aggregator: {m}" for m in scenario.aggregator.problems(public)]
    found += [f"aggregator: {m}" for m in (*never_full(exchange, public), *_weightless(scenario, data))]
    fitting = scenario.client.problems(scenario.aggregator, engine.spec.size)
    found += [f"client: {m}" for m in (*(message for _, message in fitting), *scenario.client.unable(engine))]
    if scenario.privacy is not None and scenario.privacy.unit == "example" and engine.module is not None:
        found += [f"model: {m}" for m in mixing_layers(engine.module)]
    if engine.data.objective is not None:
        found += [f"{'.'.join(map(str, p.path))}: {p.message}" for p in ignored_by_functions(scenario)]
    if found:
        raise ValueError("; ".join(found))


def _weightless(scenario: Scenario, data: FederatedData) -> tuple[str, ...]:
    """The refusal of weights by numbers of examples where nobody has any."""
    methods = (scenario.aggregator, getattr(scenario.aggregator, "inner", None))
    chosen = {name for m in methods for name in ("weights", "importance") if getattr(m, name, None) == "num_examples"}
    if not chosen or data.clients.sizes().any():
        return ()
    return (f"{chosen.pop()} is num_examples, but no client has examples, so nobody would count; use uniform",)


def _fleet(scenario: Scenario, data: FederatedData) -> Fleet:
    classes = None
    few = data.clients.num_clients <= LISTED_CLIENTS
    if data.task.kind == "classification" and few and len(data.train):  # a deployed server may hold no examples
        classes = _class_ranges(data)
    return Fleet(scenario.seed, data.clients.num_clients, data.clients.sizes(), classes)


def _class_ranges(data: FederatedData) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest class of every client ``[clients, 2]``, and how many it holds ``[clients]``."""
    ranges, distinct = [], []
    for client in range(data.clients.num_clients):
        labels = np.unique(data.train.targets[data.clients.of(client)])
        ranges.append((int(labels[0]), int(labels[-1])) if len(labels) else (0, 0))
        distinct.append(len(labels))
    return np.array(ranges), np.array(distinct)


def _public(scenario: Scenario, data: FederatedData, clock: DeviceClock) -> Public:
    clients = data.clients.num_clients
    is_private = scenario.privacy is not None
    declared = "num_examples" in getattr(scenario.data, "public", ())
    public = Public(
        num_clients=clients,
        expected_cohort=scenario.sampling.expected_cohort(clients),
        is_private=is_private,
        num_examples=data.clients.sizes() if declared or not is_private else None,
        seconds_per_task=expected_seconds(scenario, data, clock),
        horizon=scenario.run.server_steps,
        seed=scenario.seed,
        expected_ceil=expected_ceil(scenario, data, clock),
        seconds_for_equal_work=equal_work_seconds(scenario, data, clock),
        concurrency=scenario.sampling.slots(clients),
    )
    return public.closed_by(scenario.aggregator.plan(None, public).close)


def _limits(scenario: Scenario, clock: DeviceClock) -> Limits:
    run, privacy = scenario.run, scenario.privacy
    return Limits(
        server_steps=run.server_steps,
        time=None if run.time_s is None else clock.ticks(run.time_s),
        max_participations=None if privacy is None else privacy.max_participations,
    )


def protected(work: ClientWork, spec: ParamSpec, mechanism: Mechanism | None, noise: Noise | None = None) -> ClientWork:
    """Client work that clips and randomises every example, where the mechanism asks for it.

    Args:
        work: of the scenario.
        spec: of the model.
        mechanism: with its noise set, or None.
        noise: source of noise inside training; None for the simulation's seeded streams.
    """
    clipping = mechanism.example_clipping() if mechanism is not None else None
    if clipping is not None and clipping.per_layer is not None and len(clipping.per_layer) != len(spec.names):
        raise ValueError(
            f"privacy.mechanism.layer_norms has {len(clipping.per_layer)} numbers, but the model has {len(spec.names)} "
            f"parameter tensors ({', '.join(spec.names)}); give one bound for each"
        )
    return work if clipping is None else work.protected(replace(clipping, noise=noise))


def _work_of(
    work: ClientWork, data: FederatedData, clock: DeviceClock, engine: CohortEngine, mechanism: Mechanism | None
) -> Any:
    offsets = data.clients.offsets

    def work_of(client: int, task: int, message: Message) -> tuple[int, int, float, int, int]:
        examples = int(offsets[client + 1] - offsets[client])
        steps = clock.work.steps(client, task, work.planned_steps(examples, message))
        sent = work.reply_bytes(engine.spec, message, steps)
        sent = sent if mechanism is None else mechanism.reply_bytes(engine.spec.size, sent)
        return examples, steps, work.normalizer(steps), sent, work.planned_queries(message, steps, task)

    return work_of


def _privacy(scenario: Scenario, public: Public) -> tuple[Any, Any, tuple[str, ...]]:
    """(mechanism, affordable, warnings) of a scenario; nothing without privacy."""
    if scenario.privacy is None:
        return None, None, ()
    from fedopt.privacy.plan import plan

    return plan(scenario, public)
