"""``fedopt replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedopt.commands.common import fail, require_directory
from fedopt.own_code import is_own_failure


def replay(
    directory: Annotated[Path, typer.Argument(help="Directory of a finished run that moved its model by scalars.")],
) -> None:
    """Rebuild a run's model from its seed log and compare it bit for bit."""
    from fedopt.replay import check
    from fedopt.runlog import RunLogError
    from fedopt.scenario import ScenarioError

    require_directory(directory)
    try:
        found, wanted = check(directory)
    except ScenarioError as error:
        fail(error.problems)
    except (RunLogError, ValueError, FileNotFoundError) as error:
        if is_own_failure(error):
            raise
        fail([str(error) if str(error).startswith(str(directory)) else f"{directory}: {error}"])
    typer.echo(f"{found} {'equals' if found == wanted else 'differs from'} the model of the run")
    if found != wanted:
        raise typer.Exit(1)
