"""What the processes of the kill tests do; imported by a fork server, so that a process starts in a moment."""

from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

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


def start_ranks(scenario: Path, out: Path, ranks: int, die_at_step: int | None = None) -> list[BaseProcess]:
    """As torchrun does: one process per rank, told about each other by environment variables; rank 1 may die."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [(str(scenario), str(out), rank, ranks, port, die_at_step) for rank in range(ranks)]
    processes = [context().Process(target=_run_rank, args=a) for a in arguments]
    for process in processes:
        process.start()
    return processes


def _run_rank(scenario: str, out: str, rank: int, ranks: int, port: int, die_at_step: int | None) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    import fedopt
    from fedopt.simulation.session import Session

    original = Session._on_step

    def dying(self: Session, stepped: Any, metrics: dict[str, float]) -> str | None:
        if rank == 1 and stepped.step == die_at_step:
            os._exit(9)
        return original(self, stepped, metrics)

    Session._on_step = dying  # type: ignore[method-assign]
    fedopt.simulate(scenario, out=out, resume=True)


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
