"""What only a look at files, or the start of a run, shows to be wrong with a scenario: in words, with file and line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedopt.problems import Problem
from fedopt.scenario_file import flow, of_override, read_yaml

if TYPE_CHECKING:
    from fedopt.scenario import Scenario

# Folders of the package whose errors are about a section of the scenario.
SECTIONS = {
    "data": "data",
    "models": "model",
    "clients": "client",
    "devices": "devices",
    "sampling": "sampling",
    "aggregators": "aggregator",
    "privacy": "privacy",
}


def problems_on_disk(path: str | Path, scenario: Scenario, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """What a cheap look at files of data and modules of code shows to be wrong, worded as by ``load``."""
    values, where = read_yaml(Path(path))
    parts = ("data", scenario.data.problems()), ("model", scenario.model.problems())
    found = [Problem(path=(part, field), message=text) for part, problems in parts for field, text in problems]
    return [of_override(p, overrides or {}, values) or where.message(p) for p in found]


def failure_in(path: str | Path, error: Exception, overrides: Mapping[str, Any] | None = None) -> str:
    """An error that a scenario's run began with, as ``file:line:column: section: message``.

    The section is the one whose code raised it (``data`` for a missing file, ``model`` for images that are too small).
    Where overrides brought the whole section the message is theirs; where they changed options of it, it names them.
    """
    values, where = read_yaml(Path(path))
    package, section, step = Path(__file__).parent, None, error.__traceback__
    while step is not None:
        file = Path(step.tb_frame.f_code.co_filename)
        folder = file.relative_to(package).parts[0] if file.is_relative_to(package) else ""
        section, step = SECTIONS.get(folder, section), step.tb_next
    if section is None:
        return f"{path}: {error}"
    problem = Problem(path=(section,), message=str(error))
    changes = {key: value for key, value in (overrides or {}).items() if key.split(".")[0] == section}
    brought = of_override(problem, changes, values)
    if brought is not None or not changes:
        return brought or where.message(problem)
    given = ", ".join(f"--set {key}={flow(value)}" for key, value in changes.items())
    return where.message(Problem(path=(section,), message=f"{problem.message.rstrip('.')} (with {given})"))
