"""A scenario: typed, strict sections; errors say file, line, value and remedy, all at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedopt.aggregators.base import Method
from fedopt.auditing.settings import Audit
from fedopt.clients.base import ClientWork
from fedopt.components import (
    ComponentError,
    ConfigurationError,
    KindOf,
    Problem,
    Section,
    Settings,
    component,
    dump,
    parse,
)
from fedopt.data.base import DataSet
from fedopt.devices.base import AvailabilityModel, ComputeModel, NetworkModel
from fedopt.models.base import Model
from fedopt.privacy.base import Mechanism
from fedopt.sampling.base import Sampler

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
        None, gt=0, description="epsilon after the last step; the noise multiplier is calibrated to it"
    )
    max_epsilon: float | None = Field(None, gt=0, description="stop before a release that would exceed this epsilon")
    delta: float = Field(1e-5, gt=0, lt=1, description="delta of (epsilon, delta)")
    max_participations: int | None = Field(
        None, ge=1, description="how often one client may contribute over the run; enforced"
    )
    hypothetical_population: int | None = Field(
        None, ge=1, description="account as if there were this many clients; every report says so"
    )


class Run(Section):
    """When to stop, and how often to look."""

    server_steps: int | None = Field(None, ge=0, description="server steps to make")
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

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is one")
    formulation: str = Field("auto", description="how a cohort is trained; auto follows the documented rule")
    chunk: int | Literal["auto"] = Field("auto", description="most clients computed together")
    dtype: Literal["float32", "bfloat16", "tf32"] = Field(
        "float32", description="arithmetic of local training; bfloat16 is autocast, tf32 needs CUDA"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; default: PyTorch's")
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


class ScenarioError(ValueError):
    """A scenario that cannot run: every problem on its own line, with file and line."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


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
    if version != SCHEMA_VERSION:
        message = f"is {version}, but this fedopt reads {SCHEMA_VERSION}; use the version that wrote it"
        problems.append(Problem(path=("schema_version",), message=message))
    scenario = parse(Scenario, body, (), problems)
    if isinstance(scenario, Scenario) and not problems:
        problems.extend(check(scenario))
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


def check(scenario: Scenario) -> list[Problem]:
    """Problems between sections, which no single section can see."""
    from fedopt.privacy.combination import problems_of
    from fedopt.reply_parts import unanswered

    return [*unanswered(scenario), *problems_of(scenario)]


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read a scenario file.

    Args:
        path: YAML file.
        overrides: dotted keys to values, applied before validation (``--set``).
    Raises:
        ScenarioError: every problem as ``file:line:column: key: message``.
    """
    values, where = read_yaml(Path(path))
    for dotted, value in (overrides or {}).items():
        _assign(values, dotted, value)
    try:
        return from_mapping(values)
    except ConfigurationError as error:
        raise ScenarioError([where.message(p) for p in error.problems]) from error


class Where:
    """Finds the line of a key in a YAML file."""

    def __init__(self, path: Path, nodes: Any):
        self.path, self._nodes = path, nodes

    def message(self, problem: Problem) -> str:
        """``file:line:column: key: message``; the line is that of the deepest key that exists."""
        node, position = self._nodes, None
        for part in problem.path:
            found = _position(node, part)
            if found is None:
                break
            position, node = found, node[part]
        place = f"{self.path}:{position[0] + 1}:{position[1] + 1}" if position else f"{self.path}:1"
        key = ".".join(map(str, problem.path)) or "scenario"
        message = problem.message if problem.message.endswith((".", "?")) else problem.message + "."
        return f"{place}: {key}: {message}"


def _position(node: Any, part: str | int) -> tuple[int, int] | None:
    location = getattr(node, "lc", None)
    try:
        return location.item(part) if isinstance(node, list) else location.key(part)  # type: ignore[union-attr]
    except (AttributeError, KeyError, IndexError, TypeError):
        return None


def read_yaml(path: Path) -> tuple[dict[str, Any], Where]:
    """Read a YAML mapping as plain values, with where each key stands.

    Raises:
        ScenarioError: no such file, not YAML, a duplicate key, or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError([f"{path}: cannot be read: {error.strerror or error}."]) from error
    except UnicodeDecodeError as error:
        raise ScenarioError([f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}."]) from error
    try:
        nodes = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ScenarioError([f"{place}: not valid YAML: {error.problem or error.context}."]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise ScenarioError([f"{path}: not valid YAML: {str(error).splitlines()[0]}."]) from error
    if not isinstance(nodes, dict):
        raise ScenarioError([f"{path}:1: a scenario is a mapping of keys to values; see `fedopt init`."])
    return _plain(nodes), Where(path, nodes)


def _plain(node: Any) -> Any:
    """Plain Python values from ruamel's nodes."""
    if isinstance(node, dict):
        return {(k if isinstance(k, str) else str(k)): _plain(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_plain(v) for v in node]
    if isinstance(node, bool) or node is None:
        return node if node is None else bool(node)
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    values[last] = value


def parse_override(text: str) -> tuple[str, Any]:
    """``a.b=value`` with the value read as YAML.

    >>> parse_override("client.lr=1e-2")
    ('client.lr', 0.01)

    Raises:
        ScenarioError: no ``=``, or the value is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ScenarioError([f"--set {text}: write it as key.subkey=value."])
    try:
        parsed = YAML(typ="safe").load(value)
    except YAMLError as error:
        raise ScenarioError([f"--set {text}: the value is not YAML: {str(error).splitlines()[0]}."]) from error
    return name, parsed


__all__ = ["ComponentError", "ConfigurationError", "Scenario", "ScenarioError", "load"]
