"""What the processes of the kill tests do; imported by a fork server, so that a process starts in a moment."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ["fedopt.api", "fedopt.simulation.session", "fedopt.report", "pandas", "sklearn.datasets", "killed_run"]


def context() -> multiprocessing.context.ForkServerContext:
    """Processes forked from a server that has imported everything, itself never having run a scenario."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def start(scenario: Path, out: Path, die_in: str | None = None) -> BaseProcess:
    """Begin, or go on with, the scenario in a process of its own."""
    process = context().Process(target=_run, args=(str(scenario), str(out), die_in))
    process.start()
    return process


def _run(scenario: str, out: str, die_in: str | None) -> None:
    import fedopt

    if die_in is not None:
        _die_in(die_in)
    fedopt.simulate(scenario, out=out, resume=True)


def _die_in(where: str) -> None:
    """End this process without any clean-up in the middle of writing one of the files."""
    import fedopt.report
    import fedopt.runlog.writer as writer
    from fedopt.simulation import checkpoint

    save, calls = checkpoint.save, [0]

    def dying_save(path: Path, tree: object) -> None:
        calls[0] += 1
        if calls[0] == 7:
            Path(f"{path}.part").write_bytes(b"half")
            os._exit(9)
        save(path, tree)

    def dying_conversion(temporary: Path, batches: object) -> None:
        temporary.write_bytes(b"half")
        os._exit(9)

    if where == "checkpoint":
        checkpoint.save = dying_save  # type: ignore[assignment]
    elif where == "conversion":
        writer._write_updates = dying_conversion  # type: ignore[assignment]
    else:
        fedopt.report.write_report = lambda directory: os._exit(9)
