"""A scenario: typed, strict sections; errors say file, line, value and remedy, all at once."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fedopt.aggregators.base import Method
from fedopt.auditing.settings import Audit
from fedopt.clients.base import ClientWork
from fedopt.components import (
    ComponentError,
    KindOf,
    Section,
    Settings,
    component,
    dump,
    parse,
)
from fedopt.data.base import DataSet
from fedopt.devices.base import AvailabilityModel, ComputeModel, NetworkModel
from fedopt.models.base import Model
from fedopt.own_sources import look_beside
from fedopt.privacy.base import Mechanism
from fedopt.problems import ConfigurationError, Problem
from fedopt.sampling.base import Sampler
from fedopt.scenario_file import ScenarioError, assign, of_override, read_yaml

SCHEMA_VERSION = 1


def _default(family: str, kind: str) -> Any:
    return lambda: component(family, kind)()


class Devices(Section):
    """Who is there, how fast they are, and what goes wrong. All times are virtual seconds."""

    compute: Annotated[ComputeModel, KindOf("fedopt.devices.compute")] = Field(
        default_factory=_default("fedopt.devices.compute", "none"), description="time of local work"
    )
    network: Annotated[NetworkModel, KindOf("fedopt.devices.network")] = Field(
        default_factory=_default("fedopt.devices.network", "none"), description="time of transfers"
    )
    availability: Annotated[AvailabilityModel, KindOf("fedopt.devices.availability")] = Field(
        default_factory=_default("fedopt.devices.availability", "always"), description="who can be asked when"
    )
    work: Annotated[Settings, KindOf("fedopt.devices.work")] = Field(
        default_factory=_default("fedopt.devices.work", "full"), description="share of the local work that gets done"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="probability that a started task never replies")
    dropout_phase: Literal["before", "during"] = Field(
        "during", description="when a lost task is noticed: at once, or after a uniform share of its duration"
    )
    interrupt: bool = Field(False, description="whether a client that is away when its reply is due counts as lost")


class Privacy(Section):
    """What is protected, from whom, how, and how much may be spent."""

    unit: Literal["client", "example"] = Field("client", description="whose presence or value is hidden")
    trust: Literal["central", "local", "shuffle", "distributed"] = Field(
        "central", description="who is trusted before noise is added"
    )
    relation: Literal["add_or_remove_one", "zero_out_one", "replace_one"] = Field(
        "zero_out_one", description="what neighbouring inputs differ by"
    )
    mechanism: Annotated[Mechanism, KindOf("fedopt.privacy.mechanisms")] = Field(description="how it is protected")
    accountant: Literal["pld", "rdp"] = Field("pld", description="one accountant for noise, stop and report")
    target_epsilon: float | None = Field(
        None, gt=0, description="epsilon after the last step, never exceeded; the noise multiplier is calibrated to it"
    )
    max_epsilon: float | None = Field(None, gt=0, description="stop before a release that would exceed this epsilon")
    delta: float = Field(1e-5, ge=1e-12, lt=1, description="delta of (epsilon, delta)")
    max_participations: int | None = Field(
        None, ge=1, description="how often one client may contribute over the run; enforced"
    )
    hypothetical_population: int | None = Field(
        None, ge=1, description="account as if there were this many clients; every report says so"
    )

    def epsilon_limit(self) -> tuple[str, float]:
        """Key and value of the smallest epsilon that must not be exceeded; infinite where none is given."""
        limits = {"max_epsilon": self.max_epsilon, "target_epsilon": self.target_epsilon}
        given = [(name, limit) for name, limit in limits.items() if limit is not None]
        return min(given, key=lambda item: item[1], default=("max_epsilon", math.inf))


class Run(Section):
    """When to stop, and how often to look."""

    model_config = ConfigDict(allow_inf_nan=False)

    server_steps: int | None = Field(
        None, ge=0, description="server steps to make; a round of several exchanges is finished"
    )
    time_s: float | None = Field(None, gt=0, description="virtual seconds after which no step is made")
    target_metric: float | None = Field(None, description="stop when the evaluated metric reaches this value")
    evaluate_every: int = Field(5, ge=1, description="evaluate on the test set every so many steps")
    evaluate_clients: Literal["none", "end"] = Field("end", description="per-client metrics for the fairness view")
    checkpoint_every: int = Field(20, ge=1, description="write a resumable checkpoint every so many steps")
    keep_checkpoint: bool = Field(False, description="keep the last checkpoint of a finished run for fedopt verify")

    @model_validator(mode="after")
    def _ends(self) -> Run:
        if self.server_steps is None and self.time_s is None and self.target_metric is None:
            raise ValueError("the run never ends; set server_steps, time_s or target_metric")
        return self


class EngineSettings(Section):
    """How client work is computed; never what it computes."""

    model_config = ConfigDict(allow_inf_nan=False)

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is one")
    formulation: str = Field("auto", description="how a cohort is trained; auto follows the documented rule")
    chunk: int | Literal["auto"] = Field("auto", description="most clients computed together")
    block: int | Literal["auto"] = Field("auto", description="about how many clients are computed side by side")
    dtype: Literal["float32", "bfloat16", "tf32"] = Field(
        "float32", description="arithmetic of local training; bfloat16 is autocast, tf32 needs CUDA"
    )
    threads: int | None = Field(None, ge=1, description="worker threads on a CPU; default: its cores")
    memory_gib: float = Field(1.0, gt=0, description="memory for computed updates and client states, GiB each")


class Scenario(Section):
    """Everything about one run."""

    name: str = Field("run", min_length=1, pattern=r"^[A-Za-z0-9._-]+$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="seed of every simulated random stream")
    data: Annotated[DataSet, KindOf("fedopt.data")] = Field(description="the data and how it is split")
    model: Annotated[Model, KindOf("fedopt.models")] = Field(description="what is trained")
    client: Annotated[ClientWork, KindOf("fedopt.clients")] = Field(description="local work")
    devices: Devices = Field(default_factory=Devices, description="devices and their faults")
    sampling: Annotated[Sampler, KindOf("fedopt.sampling")] = Field(
        default_factory=_default("fedopt.sampling", "all"), description="who takes part"
    )
    aggregator: Annotated[Method, KindOf("fedopt.aggregators")] = Field(
        default_factory=_default("fedopt.aggregators", "fedavg"), description="the federated optimiser"
    )
    privacy: Privacy | None = Field(None, description="privacy; leave out for none")
    audit: Audit | None = Field(None, description="audit of the privacy claim after the run; leave out for none")
    run: Run = Field(description="length of the run")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="how it is computed")

    def resolved(self) -> dict[str, Any]:
        """The scenario as a mapping, with every default spelled out."""
        return {"schema_version": SCHEMA_VERSION, **dump(self)}

    def content_hash(self) -> str:
        """Hash of everything that can change a result (not the name)."""
        body = {k: v for k, v in self.resolved().items() if k != "name"}
        return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()


def from_mapping(values: Mapping[str, Any]) -> Scenario:
    """Build a scenario from a plain mapping.

    Raises:
        ConfigurationError: every problem, with its path.
    """
    problems: list[Problem] = []
    body = dict(values)
    body["devices"] = _recorded_devices(body.get("devices"))
    if body["devices"] is None:
        body.pop("devices")
    version = body.pop("schema_version", SCHEMA_VERSION)
    body.pop("resolved", None)  # notes of a run directory: versions, and how the engine chose
    spelled_out = "schema_version" in values  # with every default: a cohort size there was nobody's wish
    if version != SCHEMA_VERSION:
        message = f"is {version}, but this fedopt reads {SCHEMA_VERSION}; use the version that wrote it"
        problems.append(Problem(path=("schema_version",), message=message))
    scenario = parse(Scenario, body, (), problems)
    if isinstance(scenario, Scenario) and not problems:
        problems.extend(check(scenario, spelled_out))
    if problems or not isinstance(scenario, Scenario):
        raise ConfigurationError(problems)
    return scenario


def _recorded_devices(devices: Any) -> Any:
    """``{kind: trace, path: ...}``, short for computing and transfers that both replay one recorded trace."""
    if not isinstance(devices, Mapping) or devices.get("kind") != "trace":
        return devices
    rest = {key: value for key, value in devices.items() if key not in ("kind", "path", "assignment", "time_scale")}
    trace = {key: devices[key] for key in ("kind", "path", "assignment", "time_scale") if key in devices}
    return {"compute": trace, "network": trace, **rest}


def check(scenario: Scenario, spelled_out: bool = False) -> list[Problem]:
    """Problems between sections, which no single section can see.

    Args:
        scenario: each section checked.
        spelled_out: whether it comes from ``resolved()``, which says defaults that nobody asked for.
    """
    from fedopt.privacy.combination import problems_of
    from fedopt.reply_parts import unanswered, unfitting

    cohort = [] if spelled_out else _cohort(scenario)
    ignored = ignored_by_functions(scenario) if scenario.data.is_function else []
    between = [*ignored, *cohort, *_epochs(scenario)]
    return [*(unanswered(scenario) or unfitting(scenario)), *between, *problems_of(scenario)]


def ignored_by_functions(scenario: Scenario) -> list[Problem]:
    """The refusal of a model, or of a start it gives, where functions of a point are minimised."""
    model, data = scenario.model, scenario.data
    if model.kind() != "point":
        message = (
            f"{data.kind()} minimises functions of a point, so {model.kind()} would not be trained; use model: point"
        )
        return [Problem(path=("model", "kind"), message=message)]
    start = "set data.start" if "start" in type(data).model_fields else f"{data.kind()} says where it starts"
    given = [name for name, field in type(model).model_fields.items() if getattr(model, name) != field.default]
    message = f"has no effect: the starting point is that of the data; leave it out, and {start}"
    return [Problem(path=("model", name), message=message) for name in given]


def _cohort(scenario: Scenario) -> list[Problem]:
    """The refusal of cohorts larger than the population, where the scenario says how large that is."""
    wanted, clients = getattr(scenario.sampling, "cohort_size", None), getattr(scenario.data, "clients", None)
    is_given = "cohort_size" in scenario.sampling.model_fields_set
    if not is_given or wanted is None or not isinstance(clients, int) or wanted <= clients:
        return []
    message = f"{wanted:g} clients are wanted, but data.clients is {clients}; lower it, or use sampling: {{kind: all}}"
    return [Problem(path=("sampling", "cohort_size"), message=message)]


def _epochs(scenario: Scenario) -> list[Problem]:
    """The refusal of a work mode that counts another number of planned epochs than the client plans."""
    counted, client = getattr(scenario.devices.work, "planned_epochs", None), scenario.client
    if counted is None or not hasattr(client, "epochs") or getattr(client, "steps", None) is not None:
        return []
    planned = client.epochs or 1
    if planned == counted:
        return []
    message = f"is {counted}, but client.epochs is {planned}, so a task would not last E epochs; set {planned}"
    return [Problem(path=("devices", "work", "planned_epochs"), message=message)]


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read a scenario file. Modules that it names are looked for in its folder too.

    Args:
        path: YAML file.
        overrides: dotted keys to values, applied before validation (``--set``).
    Raises:
        ScenarioError: every problem as ``file:line:column: key: message``, or as ``--set key=value: message`` where an
            override brought it.
    """
    values, where = read_yaml(Path(path))
    if {"base", "variants"} <= set(values):
        raise ScenarioError([f"{path}:1: this is a comparison, not a scenario; run it with: fedopt compare {path}."])
    overrides, in_file = overrides or {}, set(values)
    for dotted, value in overrides.items():
        assign(values, dotted, value)
    look_beside(values, Path(path).parent)
    try:
        return from_mapping(values)
    except ConfigurationError as error:
        raise ScenarioError([of_override(p, overrides, in_file) or where.message(p) for p in error.problems]) from error


def from_values(values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Scenario:
    """A scenario from the mapping that a file would hold.

    Args:
        values: keys to plain values, as in YAML; not changed.
        overrides: dotted keys to values, applied before validation.
    Raises:
        ScenarioError: every problem as ``key: message``.
    """
    body = copy.deepcopy(dict(values))
    for dotted, value in (overrides or {}).items():
        assign(body, dotted, value)
    try:
        return from_mapping(body)
    except ConfigurationError as error:
        raise ScenarioError([f"{'.'.join(map(str, p.path))}: {p.message}." for p in error.problems]) from error


__all__ = [
    "ComponentError",
    "ConfigurationError",
    "Scenario",
    "ScenarioError",
    "from_values",
    "load",
]
