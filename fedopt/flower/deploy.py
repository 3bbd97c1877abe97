"""``fedopt deploy``: start or reach a federation, submit the scenario, follow it, and always clean up. No torch."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedopt.api import DEFAULT_OUT, Run, find_unfinished, new_run_directory
from fedopt.flower import require_flwr
from fedopt.flower.export import export_app
from fedopt.flower.processes import (
    FlowerProcessError,
    LocalFederation,
    environment,
    is_loopback,
    run_command,
    run_status,
    write_connection,
)
from fedopt.flower.rules import clients_of, refusals
from fedopt.progress import Progress
from fedopt.scenario import Scenario

COMPLETED = "finished:completed"
GO_ON = "go on with --resume once this is mended"


def deploy_local(
    scenario: Scenario,
    nodes: int,
    out: Path | None = None,
    quiet: bool = True,
    resume: bool = False,
    run_config: Mapping[str, Any] | None = None,
    node_config: Mapping[str, Any] | None = None,
) -> Run:
    """Deploy on a SuperLink and SuperNodes started here, on loopback.

    Args:
        scenario: what to run.
        nodes: SuperNodes; client c lives on node ``c % nodes``.
        out: folder for runs (default ``reports``).
        quiet: no live view.
        resume: go on with the newest unfinished run of this scenario under ``out``.
        run_config: entries of the app's configuration that differ from their defaults.
        node_config: more entries of every node's configuration; ``{}`` becomes the node's number.
    Returns:
        The run.
    Raises:
        FlowerMissing: flwr is not installed.
        FlowerProcessError: something ended too early; quotes its log. The run can be resumed.
        ValueError: the scenario cannot be deployed.
    """
    require_flwr()
    refuse(scenario, nodes)
    base = (out if out is not None else DEFAULT_OUT).absolute()
    unfinished = find_unfinished(scenario, base) if resume else None
    directory = unfinished or new_run_directory(scenario, base)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedopt-app-") as folder:
        app = export_app(scenario, Path(folder) / "app")
        config = {"out": str(directory), "resume": unfinished is not None, **(run_config or {})}
        with LocalFederation(nodes, directory / "logs", node_config) as federation:
            federation.submit(app, config)
            follow(federation, directory, scenario, quiet)
    return Run(directory)


def refuse(scenario: Scenario, nodes: int | None) -> None:
    """Refuse what cannot be deployed before anything starts.

    Raises:
        ValueError: every reason.
    """
    found = refusals(scenario)
    clients = clients_of(scenario)
    if nodes is not None and not 1 <= nodes <= clients:
        found.append(f"--nodes must be between 1 and the {clients} clients of the scenario, got {nodes}")
    if found:
        raise ValueError("; ".join(found))


def follow(federation: LocalFederation, directory: Path, scenario: Scenario, quiet: bool) -> None:
    """Show the run's steps as they are written, until it is finished.

    Raises:
        FlowerProcessError: the SuperLink or the run ended before the run was finished.
    """
    processes = federation.processes
    with Progress(scenario.run.server_steps, quiet=quiet, clock="time") as progress:
        shown, submitted = 0, processes.running["flwr-run"]
        while submitted.poll() is None:
            try:
                processes.require("superlink")
            except FlowerProcessError as error:
                raise FlowerProcessError(f"{error}\n{GO_ON}") from error
            shown = _show(directory, shown, progress)
            time.sleep(0.5)
        _show(directory, shown, progress)
    if not finished(directory):
        raise FlowerProcessError(f"the run ended before it was finished; {processes.tail('flwr-run', 30)}\n{GO_ON}")


def finished(directory: Path) -> bool:
    """Whether a run directory is complete."""
    from fedopt.runlog import run_state

    return run_state(directory) == "finished" and (directory / "report.html").exists()


def _show(directory: Path, shown: int, progress: Progress) -> int:
    rows = _rows(directory)
    for row in rows[shown:]:
        progress.update(row)
    return max(shown, len(rows))


def _rows(directory: Path) -> list[dict[str, Any]]:
    """Server steps written so far; the finished table holds the last ones once the running log is gone."""
    from fedopt.runlog.reader import read_rounds, read_running_rounds, run_state

    try:
        return read_running_rounds(directory)
    except FileNotFoundError:  # not begun, or just finished
        return read_rounds(directory).to_pylist() if run_state(directory) == "finished" else []


def deploy_remote(
    scenario: Scenario,
    superlink: str,
    root_certificates: Path | None = None,
    insecure: bool = False,
    run_config: Mapping[str, Any] | None = None,
) -> int:
    """Submit to an existing federation and follow its log; the run directory is written on the SuperLink's machine.

    Args:
        scenario: what to run.
        superlink: ``host:port``.
        root_certificates: PEM file of the authority that signed the SuperLink's certificate.
        insecure: no TLS; only on loopback unless asked for by name.
        run_config: entries of the app's configuration that differ from their defaults.
    Returns:
        0 if the run was completed.
    Raises:
        ValueError: neither certificates nor insecure, or the scenario cannot be deployed.
    """
    require_flwr()
    refuse(scenario, None)
    if root_certificates is None and not insecure and not is_loopback(superlink):
        raise ValueError(
            f"--superlink {superlink} is another machine: give --root-certificates FILE (see fedopt deploy certs), or "
            "ask for an unencrypted connection by name with --insecure"
        )
    if root_certificates is not None and not root_certificates.is_file():
        raise ValueError(f"--root-certificates: no file {root_certificates}")
    with tempfile.TemporaryDirectory(prefix="fedopt-app-") as folder:
        home = Path(folder) / "home"
        write_connection(home, superlink, insecure=root_certificates is None, root_certificates=root_certificates)
        app = export_app(scenario, Path(folder) / "app")
        env = environment(home)
        code, run = _relayed(run_command(app, "fedopt", run_config or {}), env)
        if run is None:
            return code or 1
        if code:
            print(
                f"run {run} can no longer be followed; a run ends with its SuperLink, and goes on, once that is back, "
                "with this command, --out (its directory on the SuperLink's machine) and --resume",
                file=sys.stderr,
            )
            return code
        status = run_status(run, "fedopt", env)
        if status != COMPLETED:
            print(f"run {run} ended as {status}; its log above says why", file=sys.stderr)
        return int(status != COMPLETED)


def _relayed(command: list[str], env: Mapping[str, str]) -> tuple[int, str | None]:
    """(exit code, number of the run) of ``flwr run``, which ends well however the run does; its output is passed on."""
    run = None
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, errors="replace") as submitted:
        assert submitted.stdout is not None
        for line in submitted.stdout:
            print(line, end="", flush=True)
            started = re.search(r"Successfully started run (\d+)", line)
            run = started[1] if started else run
    return submitted.returncode, run
