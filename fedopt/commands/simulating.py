"""``fedopt simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedopt.commands.common import Device, Out, Seed, Setting, fail, overrides
from fedopt.own_code import is_own_failure, own_failure

if TYPE_CHECKING:
    from fedopt.scenario import Scenario


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
    from fedopt.scenario import ScenarioError, load
    from fedopt.scenario_failures import failure_in

    loaded, changes = None, {}
    try:
        changes = overrides(settings, seed, device)
        if scenario.is_dir():
            if changes:
                fail(
                    [f"{scenario}: a run goes on as it began, so {', '.join(changes)} cannot change; start a new run."]
                )
            run = api.resume_run(scenario, quiet=quiet)
        else:
            loaded = load(scenario, changes)
            if resume:
                api.require_unfinished(loaded, out)
            run = api.simulate(loaded, out, quiet=quiet, resume=resume)
    except ScenarioError as error:
        fail(error.problems)
    except RunLogError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo(f"interrupted{_how_to_go_on(scenario, loaded, out)}", err=True)
        raise typer.Exit(130) from None
    except (Exception, SystemExit) as error:  # code of one's own may end the process
        told = own_failure(error)
        if told is not None:
            typer.echo(f"{told}{_how_to_go_on(scenario, loaded, out)}", err=True)
            raise typer.Exit(1) from error
        if isinstance(error, (FileNotFoundError, ValueError)) and not is_own_failure(error):
            fail([f"{scenario}: {error}" if loaded is None else failure_in(scenario, error, changes)])
        raise
    if api.is_first_process():  # torchrun starts several
        conclude(run)


def _how_to_go_on(scenario: Path, loaded: Scenario | None, out: Path | None) -> str:
    """The command that takes up what was begun; empty if nothing was."""
    from fedopt import api

    directory: Path | None = scenario if scenario.is_dir() else None
    if loaded is not None:
        directory = api.find_unfinished(loaded, out or api.DEFAULT_OUT)
    return f"; go on with: fedopt simulate {directory} --resume" if directory is not None else ""


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
