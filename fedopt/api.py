"""Python API: run a scenario, read a run."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedopt.own_code import is_own_failure
from fedopt.scenario import Scenario, ScenarioError, from_values, load

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

DEFAULT_OUT = Path("reports")


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not.

    Args:
        directory: the run directory.
    """

    directory: Path

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row per server step; columns in docs/run-directory.md."""
        from fedopt.runlog import read_rounds

        return read_rounds(self.directory).to_pandas()

    @cached_property
    def updates(self) -> pd.DataFrame:
        """One row per client reply or loss."""
        from fedopt.runlog import read_updates

        return read_updates(self.directory).to_pandas()

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row per client that took part or was evaluated."""
        from fedopt.runlog import read_clients

        return read_clients(self.directory).to_pandas()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Headline numbers."""
        from fedopt.runlog import read_summary

        return dict(read_summary(self.directory))

    @property
    def scenario(self) -> Scenario:
        """The resolved scenario."""
        return load(self.directory / "scenario.yaml")

    @cached_property
    def audit(self) -> dict[str, Any] | None:
        """What an audit of this run found (``audit.json``), or None."""
        path = self.directory / "audit.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.directory / "report.html"

    def parameters(self) -> dict[str, Any]:
        """Final parameters by name, as tensors."""
        from safetensors.torch import load_file

        return load_file(self.directory / "model.safetensors")

    def model(self) -> nn.Module:
        """The final model.

        Raises:
            ValueError: a black-box task has no model; use ``parameters``.
        """
        scenario = self.scenario
        data = scenario.data.load(scenario.seed)
        if data.objective is not None:
            raise ValueError("a black-box task has no model; the final point is run.parameters()['point']")
        module = scenario.model.build(data.task)
        module.load_state_dict(self.parameters(), strict=False)
        return module.eval()

    def _repr_html_(self) -> str:
        """Headline numbers in a notebook."""
        keys = ("status", "steps", "metric_name", "final_metric", "epsilon", "time_s", "wall_s")
        cells = "".join(f"<tr><th>{k}</th><td>{self.summary.get(k)}</td></tr>" for k in keys)
        return f"<table>{cells}</table><a href='{self.report}'>report</a>"


def simulate(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = True,
    resume: bool = False,
    data: Any = None,
) -> Run:
    """Run a scenario on the virtual clock.

    Args:
        scenario: a YAML file, the same as a mapping, or a ``Scenario``.
        out: folder for runs (default ``reports``); the run directory is ``out/<name>/<run id>``.
        overrides: dotted keys to values, applied before validation.
        quiet: no live view.
        resume: go on with the newest unfinished run of this scenario under ``out``; a new run if there is none.
        data: already loaded ``FederatedData``, or None.
    Returns:
        The run.
    Raises:
        ScenarioError: the scenario has problems; all of them are listed.
        RunLogError: the run directory cannot be written.
        FileNotFoundError, ValueError: data, model or machine do not fit; the run directory is removed again unless a
            server step is finished.
    """
    from fedopt.runlog import withdrawn_if_refused

    loaded = _loaded(scenario, overrides)
    base = Path(out) if out is not None else DEFAULT_OUT
    unfinished = find_unfinished(loaded, base) if resume else None
    if unfinished is not None:
        return resume_run(unfinished, quiet=quiet)
    directory = new_run_directory(loaded, base)
    with withdrawn_if_refused(directory, _is_refusal):
        directory = _run_anew(loaded, directory, quiet, data)
    if is_first_process():
        _audit(directory, loaded)
    return Run(directory)


def _loaded(scenario: str | Path | Mapping[str, Any] | Scenario, overrides: Mapping[str, Any] | None) -> Scenario:
    if isinstance(scenario, (str, os.PathLike)):
        return load(scenario, overrides)
    if isinstance(scenario, Scenario):
        return from_values(scenario.resolved(), overrides) if overrides else scenario
    return from_values(scenario, overrides)


def _run_anew(scenario: Scenario, directory: Path, quiet: bool, data: Any) -> Path:
    """Run to the end; the directory, which rank 0 names under torchrun."""
    if _is_one_of_many():
        from fedopt.simulation.distributed import run_sharded

        return run_sharded(scenario, directory, quiet, resume=False)
    from fedopt.simulation.session import Session

    Session(scenario, directory, quiet=quiet, data=data).run()
    return directory


def _is_refusal(error: Exception) -> bool:
    """Whether an error says that scenario, data or machine do not fit, and not that a component of one's own failed."""
    return isinstance(error, (FileNotFoundError, ValueError)) and not is_own_failure(error)


def _is_one_of_many() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_first_process() -> bool:
    """Whether this process owns the run directory: rank 0 under torchrun, and always without it."""
    return int(os.environ.get("RANK", 0)) == 0


def resume_run(directory: Path, quiet: bool = True) -> Run:
    """Go on with an unfinished run from its last checkpoint; a finished one is returned as it is."""
    from fedopt.runlog import run_state
    from fedopt.simulation.session import Session, close_run

    if not (directory / "scenario.yaml").exists():
        raise ScenarioError([f"{directory}: holds no run; give a run directory or a scenario."])
    if run_state(directory) != "finished":
        scenario = load(directory / "scenario.yaml")
        if _is_one_of_many():
            from fedopt.simulation.distributed import run_sharded

            run_sharded(scenario, directory, quiet, resume=True)
            if not is_first_process():
                return Run(directory)
        else:
            Session(scenario, directory, quiet=quiet).run(resume=True)
    elif not _complete(directory):
        close_run(directory, load(directory / "scenario.yaml").run.keep_checkpoint)
    _audit(directory, load(directory / "scenario.yaml"))
    return Run(directory)


def _audit(directory: Path, scenario: Scenario) -> None:
    """The audit that the scenario asks for, once the run is over."""
    if scenario.audit is not None and not (directory / "audit.json").exists():
        from fedopt.auditing.audit import audit_into

        audit_into(directory, scenario)


def _complete(directory: Path) -> bool:
    """Whether nothing is left to do: the tables are final and the report is written."""
    from fedopt.runlog import run_state

    return run_state(directory) == "finished" and (directory / "report.html").exists()


def open_run(directory: str | Path) -> Run:
    """Read a run directory.

    Raises:
        FileNotFoundError: there is no run.
    """
    if not (Path(directory) / "scenario.yaml").exists():
        raise FileNotFoundError(f"{directory} is not a run directory: it has no scenario.yaml")
    return Run(Path(directory))


def new_run_directory(scenario: Scenario, base: Path) -> Path:
    """A fresh directory name under ``base/<scenario name>``."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return base / scenario.name / f"{stamp}-seed{scenario.seed}-{secrets.token_hex(2)}"


def find_unfinished(scenario: Scenario, base: Path) -> Path | None:
    """The newest unfinished run of this very scenario under ``base``, or None."""
    wanted = comparable(scenario)
    for directory in sorted((base / scenario.name).glob("*"), reverse=True):
        described = directory / "scenario.yaml"
        if not described.exists() or _complete(directory):
            continue
        if comparable(load(described)) == wanted:
            return directory
    return None


def require_unfinished(scenario: Scenario, out: Path | None) -> None:
    """Refuse to resume where nothing is unfinished; the first process of several decides.

    Raises:
        ScenarioError: no run of this scenario is unfinished under ``out``.
    """
    base = out if out is not None else DEFAULT_OUT
    if is_first_process() and find_unfinished(scenario, base) is None:
        raise ScenarioError(
            [
                f"--resume: nothing to resume: {base / scenario.name} holds no unfinished run with these settings and "
                "this seed; leave out --resume to start one."
            ]
        )


def comparable(scenario: Scenario) -> dict[str, Any]:
    """What must agree for a run to be a continuation: everything but how it is computed."""
    return {k: v for k, v in scenario.resolved().items() if k != "engine"}
