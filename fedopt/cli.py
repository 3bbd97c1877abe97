"""The command line: thin commands over the library. Starts without torch."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from fedopt.commands.common import Setting, fail, overrides, require_directory
from fedopt.commands.replaying import replay
from fedopt.commands.scenarios import init, list_components, schema, validate
from fedopt.commands.simulating import simulate
from fedopt.flower.commands import app as deploy_commands
from fedopt.own_code import is_own_failure, own_failure


class Commands(TyperGroup):
    """The commands; a mistake in how they are called is one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Click and Typer both suggest commands; once is enough."""
        self.suggest_commands = False
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (simulate, validate, schema, init, replay):
    app.command()(command)
app.command("list")(list_components)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedopt {version('fedopt')}")
        raise typer.Exit


@app.callback()
def top(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Simulate, compare and deploy private and federated optimisation."""


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Make the HTML report of a run directory again."""
    from fedopt.report import write_report
    from fedopt.runlog import RunLogError

    require_directory(directory)
    if not (directory / "scenario.yaml").exists():
        fail([f"{directory}: is not a run directory: it has no scenario.yaml."])
    try:
        typer.echo(f"report: {write_report(directory)}")
    except (RunLogError, ValueError) as error:
        fail([f"{directory}: {error}"])


@app.command()
def compare(
    sources: Annotated[list[Path], typer.Argument(help="One comparison file, or run directories.")],
    out: Annotated[Path | None, typer.Option(help="Folder for comparisons; default: reports.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Runs at the same time; default: the file's.")] = None,
    batch_runs: Annotated[
        str | None, typer.Option(help="Train runs of equal models in common passes: auto, never, always.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Method the others are tested against.")] = None,
    relation: Annotated[str | None, typer.Option(help="Account every run again under this relation.")] = None,
    delta: Annotated[float | None, typer.Option(help="Account every run again at this delta.")] = None,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
) -> None:
    """Compare methods: run what is missing, reuse what is there, write compare.html."""
    from fedopt.comparison import compare as run_comparison
    from fedopt.runlog import RunLogError
    from fedopt.scenario import ScenarioError

    files = [path for path in sources if not path.is_dir()]
    if files and len(sources) > 1:
        fail([f"compare: give one comparison file or run directories, not both: {files[0]} is no directory."])
    try:
        source = sources[0] if files else sources
        made = run_comparison(source, out, processes, quiet, baseline, relation, delta, batch_runs)
    except ScenarioError as error:
        fail(error.problems)
    except (RunLogError, RuntimeError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; repeat the command: it keeps finished runs and goes on with those under way", err=True)
        raise typer.Exit(130) from None
    for sentence in made.words():
        typer.echo(sentence)
    typer.echo(f"report: {made.report}")
    if made.failed:
        typer.echo(
            f"{made.failed} runs failed; the report says why. Repeating the command tries those that were cut off.",
            err=True,
        )
        raise typer.Exit(1)


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    last: Annotated[bool, typer.Option("--last", help="Only the steps after the last checkpoint it kept.")] = False,
) -> None:
    """Execute a run again and compare every recorded number bit for bit."""
    from fedopt.runlog import RunLogError
    from fedopt.scenario import ScenarioError
    from fedopt.verify import verify as check

    require_directory(directory)
    try:
        verdict = check(directory, last)
    except ScenarioError as error:
        fail(error.problems)
    except (RunLogError, ValueError, FileNotFoundError) as error:
        if is_own_failure(error):
            raise
        fail([f"{directory}: {error}"])
    if verdict.repeats:
        typer.echo(f"{verdict.compared} repeat bit for bit: rounds, updates, clients, summary, model, privacy.json")
        return
    for sentence in (f"{verdict.compared} do not repeat:", *(f"  {d}" for d in verdict.differences)):
        typer.echo(sentence)
    typer.echo("what can explain it:")
    for reason in verdict.reasons:
        typer.echo(f"  {reason}")
    raise typer.Exit(1)


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Run directory.")],
    tensorboard: Annotated[Path, typer.Option(help="Folder for TensorBoard event files.")],
) -> None:
    """Write a run in another tool's format; the run's own tables are Parquet and CSV already."""
    from fedopt.event_files import export_tensorboard
    from fedopt.runlog import RunLogError

    require_directory(directory)
    try:
        written = export_tensorboard(directory, tensorboard)
    except (RunLogError, RuntimeError) as error:
        fail([str(error)])
    typer.echo(f"wrote {written} scalars; look with: tensorboard --logdir {tensorboard}")


@app.command()
def budget(
    scenario: Annotated[Path | None, typer.Argument(help="Scenario file with a privacy section.")] = None,
    settings: Setting = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Noise std over clipping norm.")] = None,
    sampling_probability: Annotated[float, typer.Option(help="Poisson probability of the unit in a step.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Releases.")] = 1,
    delta: Annotated[float, typer.Option(help="Delta of (epsilon, delta).")] = 1e-5,
    relation: Annotated[str, typer.Option(help="Neighbouring relation.")] = "add_or_remove_one",
    shuffle: Annotated[bool, typer.Option(help="Shuffled messages of --local-epsilon from --clients.")] = False,
    local_epsilon: Annotated[float | None, typer.Option(help="Epsilon of one message before shuffling.")] = None,
    clients: Annotated[int | None, typer.Option(help="Clients whose messages are shuffled.")] = None,
    population: Annotated[
        int | None, typer.Option(help="What if there were so many units: the result is labelled hypothetical.")
    ] = None,
    dimension: Annotated[int | None, typer.Option(help="Parameters of the model, where noise depends on them.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the tables into this SVG, PNG or PDF file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Epsilon and noise of a scenario or of bare numbers, without training."""
    from fedopt.budget import as_text, budget_of
    from fedopt.budget import plot as draw
    from fedopt.privacy.budget import budget_from_numbers, budget_shuffle, label_population
    from fedopt.scenario import ScenarioError, load

    try:
        if scenario is not None:
            changes = overrides(settings, None, None)
            if population is not None:
                changes["privacy.hypothetical_population"] = population
            result = budget_of(load(scenario, changes), dimension=dimension)
        elif shuffle:
            if local_epsilon is None or clients is None:
                fail(["budget: --shuffle needs --local-epsilon and --clients."])
            result = label_population(budget_shuffle(local_epsilon, clients, steps, delta), population)
        elif noise_multiplier is not None:
            result = budget_from_numbers(
                noise_multiplier,
                sampling_probability,
                steps,
                delta,
                relation,  # type: ignore[arg-type]
                hypothetical_population=population,
            )
        else:
            fail(["budget: give a scenario, or --noise-multiplier, or --shuffle."])
        if plot is not None:
            draw(result, plot)
    except ScenarioError as error:
        fail(error.problems)
    except ValueError as error:
        fail([f"budget: {error}"])
    typer.echo(json.dumps(result, indent=2) if as_json else as_text(result))


app.add_typer(deploy_commands, name="deploy")


@app.command()
def audit(
    target: Annotated[Path, typer.Argument(help="Scenario file, or a run directory, which then holds audit.json.")],
    settings: Setting = None,
    method: Annotated[str | None, typer.Option(help="all, one_run, one_shot or repeats.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Independent runs for Clopper-Pearson bounds.")] = None,
    canaries: Annotated[int | None, typer.Option(help="Clients (or examples) that become canaries.")] = None,
    steps: Annotated[int | None, typer.Option(help="Server steps of an audit run.")] = None,
    checks: Annotated[bool, typer.Option(help="Also run the named checks of the code path.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of coins and noise; default: secret.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Attack the real code path with canaries: claimed, certified lower bound, estimate. Exit code 3 on an alarm."""
    from pydantic import ValidationError

    from fedopt.auditing.settings import Audit
    from fedopt.scenario import ScenarioError, load

    given = {
        "method": method,
        "repeats": repeats,
        "canaries": canaries,
        "server_steps": steps,
        "checks": checks or None,
    }
    directory = target if target.is_dir() else None
    try:
        loaded = load(target / "scenario.yaml" if directory else target, overrides(settings, None, None))
        base = loaded.audit.model_dump() if loaded.audit else {}
        wanted = Audit(**{**base, **{key: value for key, value in given.items() if value is not None}})
        from fedopt.auditing.audit import ALARM_EXIT_CODE, audit_into, audit_scenario

        result = audit_into(directory, loaded, wanted, seed) if directory else audit_scenario(loaded, wanted, seed=seed)
    except ScenarioError as error:
        fail(error.problems)
    except ValidationError as error:
        fail([f"audit: {item['loc'][0]}: {item['msg']}, got {item['input']!r}." for item in error.errors()])
    except (FileNotFoundError, ValueError) as error:
        if is_own_failure(error):
            raise
        fail([f"{target}: {error}"])
    typer.echo(json.dumps(result.as_dict(), indent=2) if as_json else result.text())
    if result.alarm:
        raise typer.Exit(ALARM_EXIT_CODE)


def main(name: str | None = None) -> None:
    """Entry point: every expected error on one line, and modules of the current directory can be named."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that nothing installed is hidden
    try:
        code = app(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help; older versions of click lack it
            error.show()
        else:
            typer.echo(f"fedopt: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(1)
    except (Exception, SystemExit) as error:
        told = own_failure(error)
        if told is None:
            raise
        typer.echo(told, err=True)
        sys.exit(1)
    sys.exit(code)


if __name__ == "__main__":
    main()
