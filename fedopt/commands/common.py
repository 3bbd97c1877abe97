"""What the commands share: their common options, and how bad input is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

_SET = "key.subkey=value, before validation; repeatable. A whole section: 'model={kind: mlp, hidden: [64]}'."
Setting = Annotated[list[str] | None, typer.Option("--set", help=_SET)]
Seed = Annotated[int | None, typer.Option(help="Replaces the scenario's seed.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Out = Annotated[Path | None, typer.Option(help="Folder for runs; default: reports.")]


def fail(messages: list[str]) -> NoReturn:
    """Bad input: every problem on its own line, exit code 2."""
    for message in messages:
        typer.echo(message, err=True)
    raise typer.Exit(2)


def require_directory(directory: Path) -> None:
    """Bad input, exit code 2: there is no such directory."""
    if not directory.exists():
        fail([f"{directory}: no such directory; give the directory of a run."])
    if not directory.is_dir():
        fail([f"{directory}: is no directory; give the directory of a run."])


def overrides(settings: list[str] | None, seed: int | None, device: str | None) -> dict[str, object]:
    """Dotted keys to values, from ``--set``, ``--seed`` and ``--device``."""
    from fedopt.scenario_file import parse_override

    found: dict[str, object] = dict(parse_override(text) for text in settings or [])
    if seed is not None:
        found["seed"] = seed
    if device is not None:
        found["engine.device"] = device
    return found
