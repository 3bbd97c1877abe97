"""Around scenario files: write one, check one, what there is to choose from."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedopt.commands.common import Device, Seed, Setting, fail, overrides

if TYPE_CHECKING:
    from fedopt.scenario import Scenario

FAMILIES = {
    "aggregators": "fedopt.aggregators",
    "clients": "fedopt.clients",
    "data": "fedopt.data",
    "partitions": "fedopt.data.partitions",
    "models": "fedopt.models",
    "sampling": "fedopt.sampling",
    "compute": "fedopt.devices.compute",
    "network": "fedopt.devices.network",
    "availability": "fedopt.devices.availability",
    "work": "fedopt.devices.work",
    "staleness": "fedopt.aggregators.staleness",
    "mechanisms": "fedopt.privacy.mechanisms",
    "accountants": "fedopt.privacy.accountants",
}


def validate(
    scenario: Annotated[Path, typer.Argument(help="Scenario file.")],
    settings: Setting = None,
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Check a scenario without running it; print the resolved scenario."""
    from fedopt.scenario import ScenarioError, load
    from fedopt.scenario_failures import problems_on_disk
    from fedopt.yaml_writer import to_yaml

    try:
        changes = overrides(settings, seed, device)
        loaded = load(scenario, changes)
    except ScenarioError as error:
        fail(error.problems)
    if problems := problems_on_disk(scenario, loaded, changes):
        fail(problems)
    for warning in _warnings(loaded):
        typer.echo(f"{scenario}: warning: {warning}", err=True)
    typer.echo(to_yaml(loaded.resolved()), nl=False)


def _warnings(scenario: Scenario) -> tuple[str, ...]:
    """What a run of the scenario will warn of, as far as it is known before the data are loaded."""
    from fedopt.privacy.plan import warnings_of
    from fedopt.privacy.public_facts import public_of

    public = public_of(scenario)
    return () if scenario.privacy is None or public is None else warnings_of(scenario, public)


def list_components(
    family: Annotated[str | None, typer.Argument(help="One of: " + ", ".join(FAMILIES) + ".")] = None,
    kind: Annotated[str | None, typer.Argument(help="One of the family: describe it, with every option.")] = None,
) -> None:
    """Show what exists, one line each, the name first; of one kind everything."""
    from fedopt.components import ComponentError, component, components, summary
    from fedopt.option_words import described

    family = {"samplers": "sampling"}.get(family or "", family)
    if family is not None and family not in FAMILIES:
        near = difflib.get_close_matches(family, FAMILIES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        fail([f"list: unknown family {family!r}; {hint}known: {', '.join(FAMILIES)}."])
    if family is not None and kind is not None:
        try:
            typer.echo(described(component(FAMILIES[family], kind)), nl=False)
        except ComponentError as error:
            fail([f"list {family}: {error}."])
        return
    for name in [family] if family else FAMILIES:
        if family is None:
            typer.echo(f"{name}:")
        for kind, found in components(FAMILIES[name]).items():
            typer.echo(f"{'' if family else '  '}{kind:<28} {summary(found)}")


def schema() -> None:
    """Print the JSON Schema of a scenario, for completion in editors."""
    from fedopt.scenario import Scenario

    typer.echo(json.dumps(Scenario.model_json_schema(), indent=2))


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("scenario.yaml"),
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented scenario to start from."""
    from fedopt.template import commented_scenario

    if path.exists() and not force:
        fail([f"{path}: exists already; choose another name or use --force."])
    try:
        path.write_text(commented_scenario(), encoding="utf-8")
    except OSError as error:
        fail([f"{path}: cannot be written: {error.strerror}."])
    typer.echo(f"wrote {path}; run it with: fedopt simulate {path}")
