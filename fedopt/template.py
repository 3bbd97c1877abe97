"""A commented scenario, written from the settings' own descriptions. No torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fedopt.components import Settings, component, dump, kind_of_field, names
from fedopt.scenario import Devices, EngineSettings, Privacy, Run, Scenario
from fedopt.scenario_file import flow

# What a newcomer starts from: every value can be changed, every other option stands beside it as a comment.
START: dict[str, Any] = {
    "name": "my-first-run",
    "seed": 0,
    "data": {"kind": "digits", "clients": 50, "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "model": {"kind": "mlp", "hidden": [64]},
    "client": {"kind": "sgd", "lr": 0.1, "batch_size": 10, "epochs": 1},
    "devices": {"compute": {"kind": "half_normal", "scale": 1.0}},
    "sampling": {"kind": "fixed", "cohort_size": 10},
    "aggregator": {"kind": "fedavg"},
    "run": {"server_steps": 50},
}
SECTIONS: dict[str, type[BaseModel]] = {"devices": Devices, "run": Run, "engine": EngineSettings}
WIDTH = 34


def commented_scenario() -> str:
    """Text of a scenario that runs as it is, with every option of the chosen components and what it means."""
    lines = [
        "# `fedopt list` shows every kind, `fedopt list FAMILY KIND` its options; `fedopt validate FILE` checks.",
        "",
    ]
    for name, field in Scenario.model_fields.items():
        if name == "privacy":
            lines += _privacy_lines()
        elif name not in START and name not in SECTIONS:
            lines += [f"# {name}: {field.description}", ""]
        elif name in START and not isinstance(START[name], dict):
            lines.append(_line(f"{name}: {START[name]}", field.description))
        else:
            lines += _section_lines(name, START.get(name, {}), field.description)
    return "\n".join(lines) + "\n"


def _section_lines(name: str, values: dict[str, Any], description: str | None) -> list[str]:
    family = kind_of_field(Scenario, name)
    settings = component(family.family, values["kind"]) if family else SECTIONS[name]
    choices = f"kinds: {', '.join(names(family.family))}" if family else ""
    lines = [f"# {name}: {description}.{' ' + choices if choices else ''}", f"{name}:"]
    if "kind" in values:
        lines.append(f"  kind: {values['kind']}")
    for option, field in settings.model_fields.items():
        lines.append(_option_line(settings, option, field, values))
    return [*lines, ""]


def _option_line(settings: type[BaseModel], option: str, field: Any, values: dict[str, Any]) -> str:
    nested = kind_of_field(settings, option)
    note = field.description or ""
    if nested is not None:
        note += f"; kinds: {', '.join(names(nested.family))}"
    if option in values:
        return _line(f"  {option}: {flow(values[option])}", note)
    default = field.get_default(call_default_factory=True) if field.default is not PydanticUndefined else None
    if field.default_factory is not None:
        default = field.get_default(call_default_factory=True)
    if isinstance(default, Settings):
        default = {"kind": dump(default)["kind"]}
    return _line(f"  # {option}: {flow(dump(default))}", note)


def _privacy_lines() -> list[str]:
    lines = ["# privacy: leave it out for none. Options:", "# privacy:"]
    for option, field in Privacy.model_fields.items():
        example = {"mechanism": {"kind": "gaussian", "clipping_norm": 1.0}}.get(option)
        default = None if field.default is PydanticUndefined else field.default
        lines.append(_line(f"#   {option}: {flow(example if example is not None else default)}", field.description))
    return [*lines, ""]


def _line(text: str, note: str | None) -> str:
    return f"{text:<{WIDTH}}  # {note}" if note else text
