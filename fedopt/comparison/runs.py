"""Executing the runs of a comparison: reuse what is finished, go on with what was cut short, report what fails."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fedopt.comparison.batches import Batching, batches
from fedopt.comparison.expansion import PlannedRun, computing_code
from fedopt.comparison.jobs import Job, run_job, run_jobs, worth_batching
from fedopt.comparison.view import View
from fedopt.runlog import read_summary, run_state, write_atomically

NOTE = "comparison.json"


@dataclass(frozen=True)
class Done:
    """What became of a planned run.

    Args:
        run: the plan.
        directory: its run directory; may hold no run if it failed.
        how: ``reused``, ``executed``, ``resumed`` or ``failed``.
        wall_s: real seconds spent now.
        error: why it failed, or empty.
        trace: the traceback of a failure, or empty.
    """

    run: PlannedRun
    directory: Path
    how: str
    wall_s: float = 0.0
    error: str = ""
    trace: str = ""


def execute(
    runs: Sequence[PlannedRun],
    folder: Path,
    processes: int = 1,
    quiet: bool = True,
    executor: str = "processes",
    name: str = "comparison",
    batch: Batching = "never",
    later: int = 0,
) -> list[Done]:
    """Make sure every run exists.

    Args:
        runs: what is wanted; equal content is executed once.
        folder: holds one directory per run, ``<label>-<key>``.
        processes: runs at the same time; 1 runs in this process.
        quiet: print nothing.
        executor: ``processes`` or ``ray``.
        name: of the comparison, for notes and progress.
        batch: whether runs of equal models are trained in common passes, see ``fedopt.comparison.batches``.
        later: runs that follow these, counted in the time left.
    Returns:
        One entry per run, in the given order. A failing run is an entry, not an exception.
    """
    done: dict[str, Done] = {}
    missing: dict[str, PlannedRun] = {}
    for run in runs:
        directory = directory_of(run, folder)
        if is_finished(directory):
            done[run.key] = Done(run, directory, "reused")
        else:
            missing[run.key] = run
    waiting = list(missing.values())
    threads = _threads(processes) if processes > 1 else None
    jobs = [_job(run, folder, name, threads) for run in waiting]
    steps = [job.scenario["run"].get("server_steps") for job in jobs]
    with View([Path(job.directory) for job in jobs], steps, len(done), quiet, later) as view:
        for index, how, wall, error, trace in _outcomes(jobs, processes, executor, batch):
            found = Done(waiting[index], Path(jobs[index].directory), how, wall, error, trace)
            done[found.run.key] = found
            view.show(found.directory, found.run.label_with_values, how, wall, error)
    by_key = {run.key: done[run.key] for run in runs}
    return [_for(run, by_key[run.key]) for run in runs]


def _for(run: PlannedRun, done: Done) -> Done:
    """The outcome of an equal run, under this run's label."""
    return done if done.run is run else Done(run, done.directory, done.how, done.wall_s, done.error, done.trace)


def directory_of(run: PlannedRun, folder: Path) -> Path:
    """The run's directory: an existing one with its key, whatever it was called, or a new name."""
    found = sorted(folder.glob(f"*-{run.key}"))
    return found[0] if found else folder / f"{run.scenario.name}-seed{run.seed}-{run.key}"


def is_finished(directory: Path) -> bool:
    """Whether nothing is left to compute there: a run that ended as diverged or failed would do so again."""
    return run_state(directory) == "finished" and read_summary(directory).get("status") != "running"


def _job(run: PlannedRun, folder: Path, name: str, threads: int | None) -> Job:
    directory = directory_of(run, folder)
    directory.mkdir(parents=True, exist_ok=True)
    cell = run.cell
    note = {
        "comparison": name,
        "base": cell.base,
        "variant": cell.variant,
        "level": cell.level,
        "level_kind": cell.level_kind,
        "seed": run.seed,
        "split": run.split,
        "chosen": dict(run.chosen),
        "key": run.key,
        "computing_code": computing_code(),
    }
    write_atomically(directory / NOTE, json.dumps(note, indent=2, default=str) + "\n")
    return Job(run.scenario.resolved(), str(directory), run.split, threads)


Outcome = tuple[int, str, float, str, str]


def _outcomes(jobs: Sequence[Job], processes: int, executor: str, batch: Batching) -> Iterator[Outcome]:
    if not jobs:
        return
    if executor == "ray":
        yield from _with_ray(jobs, processes)
    elif processes == 1:
        for indices in batches(jobs, 1, batch, lambda asked: [worth_batching(job) for job in asked]):
            yield from ((i, *found) for i, found in zip(indices, run_jobs([jobs[i] for i in indices]), strict=True))
    else:
        yield from _with_processes(jobs, min(processes, len(jobs)), batch)


def _with_processes(jobs: Sequence[Job], processes: int, batch: Batching) -> Iterator[Outcome]:
    """A pool; if a worker dies, the runs left go on one at a time so that the culprit is known."""
    left, others = dict(enumerate(jobs)), multiprocessing.active_children()
    with _pool(processes) as pool:
        try:
            planned = batches(jobs, processes, batch, lambda asked: list(pool.map(worth_batching, asked)))
            futures: dict[Future[Any], list[int]] = {
                pool.submit(run_jobs, [jobs[i] for i in indices]): indices for indices in planned
            }
            for future in as_completed(futures):
                for i, outcome in zip(futures[future], future.result(), strict=True):
                    del left[i]
                    yield i, *outcome
        except BrokenProcessPool:
            pass  # the loop below takes the runs that are left
        except BaseException:
            _end(pool, others)
            raise
    for i, job in left.items():
        with _pool(1) as pool:
            try:
                yield i, *pool.submit(run_job, job).result()
            except BrokenProcessPool:
                yield i, "failed", 0.0, "its process died (killed, or out of memory); it can be resumed", ""


def _pool(processes: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_interrupts_to_the_parent)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C in a terminal reaches every process; the one that was started ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(pool: ProcessPoolExecutor, others: Sequence[BaseProcess]) -> None:
    """End a pool and what its processes are working on: as if killed, to be resumed."""
    pool.shutdown(cancel_futures=True, wait=False)
    mine = [process for process in multiprocessing.active_children() if process not in others]
    for process in mine:
        process.terminate()
    for process in mine:
        process.join(timeout=10)
        if process.is_alive():
            process.kill()
            process.join()


def _with_ray(jobs: Sequence[Job], processes: int) -> Iterator[Outcome]:
    """On a Ray cluster, or a local one. The folder of the runs must be shared by its machines."""
    try:
        import ray
    except ImportError as error:
        raise RuntimeError("executor: ray needs Ray; install fedopt[ray], or use executor: processes") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    remote = ray.remote(max_retries=0)(run_job)
    absolute = [job._replace(directory=str(Path(job.directory).resolve())) for job in jobs]
    waiting = {remote.remote(job): i for i, job in enumerate(absolute)}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        index = waiting.pop(ready[0])
        try:
            yield index, *ray.get(ready[0])
        except ray.exceptions.RayError as error:
            yield index, "failed", 0.0, f"{type(error).__name__}: {error}", ""


def _threads(processes: int) -> int:
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)
