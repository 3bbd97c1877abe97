"""``fedopt simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedopt.commands.common import Device, Out, Seed, Setting, fail, overrides


def simulate(
    scenario: Annotated[Path | None, typer.Argument(help="Scenario file, or a run directory with --resume.")] = None,
    settings: Setting = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on with the newest unfinished run of this scenario.")] = False,
    quiet: Annotated[bool, typer.Option(help="No live view.")] = False,
    flower_app: Annotated[
        Path | None, typer.Option(help="Run this unmodified Flower app; the scenario gives devices, clients and seed.")
    ] = None,
    nodes: Annotated[int, typer.Option(help="Virtual nodes of a Flower app without a scenario.")] = 10,
) -> None:
    """Run one scenario on the virtual clock."""
    if flower_app is not None:
        from fedopt.flower.commands import simulate_app

        simulate_app(flower_app, scenario, overrides(settings, seed, device), nodes, seed)
        return
    if scenario is None:
        fail(["simulate: give a scenario file, or --flower-app DIRECTORY."])
    from fedopt import api
    from fedopt.runlog import RunLogError
    from fedopt.scenario import ScenarioError

    try:
        if scenario.is_dir():
            run = api.resume_run(scenario, quiet=quiet)
        else:
            run = api.simulate(scenario, out, overrides(settings, seed, device), quiet=quiet, resume=resume)
    except ScenarioError as error:
        fail(error.problems)
    except (FileNotFoundError, ValueError) as error:
        fail([f"{scenario}: {error}"])
    except RunLogError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    if api.is_first_process():  # torchrun starts several
        conclude(run)


def conclude(run: object) -> None:
    """Final numbers and where the report lies."""
    from fedopt.api import Run

    assert isinstance(run, Run)
    summary = run.summary
    name, value = summary.get("metric_name"), summary.get("final_metric")
    typer.echo(f"{summary['status']}: {summary['reason']}")
    if value is not None:
        typer.echo(f"final {name}: {value:.4f}")
    if summary.get("epsilon") is not None:
        typer.echo(_epsilon_line(run.directory, summary))
    if run.audit is not None:
        typer.echo(f"audit: {run.audit['headline']}")
    typer.echo(f"run directory: {run.directory}")
    typer.echo(f"report: {run.report}")
    if run.audit is not None and run.audit["alarm"]:
        typer.echo("ALARM: the audit contradicts the claim or a check failed; see audit.json", err=True)
        raise typer.Exit(3)
    if summary["status"] in ("diverged", "failed"):
        raise typer.Exit(1)


def _epsilon_line(directory: Path, summary: dict[str, object]) -> str:
    ledger = json.loads((directory / "privacy.json").read_text())
    where = ", ".join(f"{k} {ledger[k]}" for k in ("unit", "relation", "trust") if k in ledger)
    return f"epsilon: {summary['epsilon']:.4f} at delta {summary['delta']:g} ({where})"
