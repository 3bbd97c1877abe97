"""``fedopt deploy``: thin commands. Starts without torch and without flwr."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup


class RunByDefault(TyperGroup):
    """``fedopt deploy scenario.yaml`` is ``fedopt deploy run scenario.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` before anything that is not a command."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=RunByDefault, help="Run a scenario on real Flower clients.", no_args_is_help=True)

Setting = Annotated[list[str] | None, typer.Option("--set", help="key.subkey=value, before validation; repeatable.")]
Config = Annotated[list[str] | None, typer.Option("--config", help="key=value of the Flower app; repeatable.")]


def _fail(messages: list[str], code: int = 2) -> NoReturn:
    for message in messages:
        typer.echo(message, err=True)
    raise typer.Exit(code)


@contextmanager
def _told_plainly(scenario: Path) -> Iterator[None]:
    """Every expected error as its message: configuration 2, a failed deployment 1."""
    from fedopt.flower import FlowerMissing
    from fedopt.flower.processes import FlowerProcessError
    from fedopt.runlog import RunLogError
    from fedopt.scenario import ScenarioError

    try:
        yield
    except ScenarioError as error:
        _fail(error.problems)
    except (FlowerMissing, FileExistsError) as error:
        _fail([str(error)])
    except (FileNotFoundError, ValueError) as error:
        _fail([f"{scenario}: {error}"])
    except (FlowerProcessError, RunLogError) as error:
        _fail([str(error)], 1)


def _load(scenario: Path, settings: list[str] | None) -> Any:
    from fedopt.scenario import load
    from fedopt.scenario_file import parse_override

    return load(scenario, dict(parse_override(text) for text in settings or []))


def _config(entries: list[str] | None) -> dict[str, Any]:
    from fedopt.scenario_file import parse_override

    return dict(parse_override(text) for text in entries or [])


@app.command()
def run(
    scenario: Annotated[Path, typer.Argument(help="Scenario file.")],
    nodes: Annotated[
        int | None, typer.Option(help="Start a federation of so many SuperNodes here, on loopback.")
    ] = None,
    superlink: Annotated[str | None, typer.Option(help="Submit to this SuperLink, host:port, instead.")] = None,
    root_certificates: Annotated[Path | None, typer.Option(help="PEM file that vouches for the SuperLink.")] = None,
    insecure: Annotated[
        bool, typer.Option(help="Ask by name for an unencrypted connection to another machine.")
    ] = False,
    settings: Setting = None,
    config: Config = None,
    out: Annotated[Path | None, typer.Option(help="Folder for runs; default: reports.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on with the newest unfinished run of this scenario; with --superlink, with the one in --out."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option(help="No live view.")] = False,
) -> None:
    """Deploy a scenario: on a federation started here, or on an existing one."""
    if (nodes is None) == (superlink is None):
        _fail(
            ["deploy: give --nodes N for a federation on this machine, or --superlink HOST:PORT for an existing one."]
        )
    with _told_plainly(scenario):
        from fedopt.api import require_unfinished
        from fedopt.flower.deploy import deploy_local, deploy_remote

        loaded = _load(scenario, settings)
        if superlink is not None:
            if resume and out is None:
                _fail(["deploy: --resume with --superlink needs --out: the run directory, on the SuperLink's machine."])
            entries = {**_config(config), **({"out": str(out)} if out else {}), **({"resume": True} if resume else {})}
            raise typer.Exit(deploy_remote(loaded, superlink, root_certificates, insecure, entries))
        if resume:
            require_unfinished(loaded, out)
        # A terminated deployment must still stop what it started.
        signal.signal(signal.SIGTERM, _interrupt)
        assert nodes is not None
        done = deploy_local(loaded, nodes, out, quiet, resume, _config(config))
    from fedopt.commands.simulating import conclude

    conclude(done)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


@app.command()
def export(
    scenario: Annotated[Path, typer.Argument(help="Scenario file.")],
    directory: Annotated[Path, typer.Argument(help="New or empty folder.")],
    settings: Setting = None,
    force: Annotated[bool, typer.Option(help="Write into a folder that holds something.")] = False,
) -> None:
    """Write a complete Flower app that ``flwr run DIRECTORY`` accepts."""
    with _told_plainly(scenario):
        from fedopt.flower.deploy import refuse
        from fedopt.flower.export import export_app

        loaded = _load(scenario, settings)
        refuse(loaded, None)
        export_app(loaded, directory, force=force)
    typer.echo(f"wrote {directory}; submit it with: flwr run {directory} CONNECTION --stream")


@app.command()
def certs(
    directory: Annotated[Path, typer.Argument(help="Folder for keys and certificates; created, never overwritten.")],
    host: Annotated[list[str] | None, typer.Option(help="Name or address of the SuperLink; repeatable.")] = None,
    nodes: Annotated[int, typer.Option(help="Authentication keys to make, one per SuperNode.")] = 3,
    days: Annotated[int, typer.Option(help="How long the certificates are valid.")] = 90,
) -> None:
    """Make a development CA, the SuperLink's certificate and keys of the SuperNodes."""
    with _told_plainly(directory):
        from fedopt.flower.certs import make_certificates

        hosts = host or ["127.0.0.1", "localhost"]
        for line in make_certificates(directory, hosts, nodes, days):
            typer.echo(line)


def simulate_app(
    directory: Path, scenario: Path | None, overrides: dict[str, Any], nodes: int, seed: int | None
) -> None:
    """``fedopt simulate --flower-app``: a Flower app on the virtual clock."""
    with _told_plainly(directory):
        from fedopt.flower.rules import clients_of
        from fedopt.flower.simulate_app import simulate_flower_app
        from fedopt.scenario import load

        loaded = load(scenario, overrides) if scenario is not None else None
        done = simulate_flower_app(
            directory,
            clients_of(loaded) if loaded is not None else nodes,
            loaded.devices if loaded is not None else None,
            loaded.seed if loaded is not None else seed or 0,
        )
    counts = ", ".join(f"{name} {count}" for name, count in done.counts.items())
    typer.echo(f"virtual time {done.time_s:.6g} s, wall time {done.wall_s:.3g} s; {counts}")
