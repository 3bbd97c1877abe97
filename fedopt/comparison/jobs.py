"""One or several runs of a comparison carried out in this process."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedopt.own_code import own_failure
from fedopt.runlog import run_state

if TYPE_CHECKING:
    from fedopt.comparison.splits import SharedExamples
    from fedopt.data.base import FederatedData
    from fedopt.scenario import Scenario


class Job(NamedTuple):
    """A run in a form that travels to another process."""

    scenario: dict[str, Any]
    directory: str
    split: str
    threads: int | None


def run_job(
    job: Job, make_driver: Any = None, batch: Sequence[str] = (), examples: SharedExamples | None = None
) -> tuple[str, float, str, str]:
    """Execute or go on with one run in this process: (how, seconds, error, traceback).

    Args:
        job: the run.
        make_driver: of its session, or None.
        batch: names of the runs it is trained together with.
        examples: of those runs, so that equal ones are in memory once.
    """
    from fedopt.simulation.session import Session, on_virtual_clock

    began, directory = time.perf_counter(), Path(job.directory)
    how = "resumed" if run_state(directory) == "running" else "executed"
    try:
        scenario, data = loaded(job)
        data = data if examples is None else examples.of(data)
        driver = make_driver or on_virtual_clock
        Session(scenario, directory, True, data, make_driver=driver, batch=batch).run(resume=how == "resumed")
    except (Exception, SystemExit) as error:  # reported with the comparison; the other runs must not be lost
        wall, own = time.perf_counter() - began, own_failure(error)
        if own is not None:  # the user's own component: where it failed, not how it was called
            return "failed", wall, own, ""
        return "failed", wall, f"{type(error).__name__}: {error}", traceback.format_exc()
    return how, time.perf_counter() - began, "", ""


def loaded(job: Job) -> tuple[Scenario, FederatedData]:
    """Scenario and data of a job; of a run that was cut short with device, chunk and threads as it had pinned them."""
    from fedopt.comparison.splits import data_of
    from fedopt.scenario import from_mapping, load

    directory = Path(job.directory)
    if run_state(directory) == "running":
        scenario = load(directory / "scenario.yaml")
    else:
        scenario = from_mapping(job.scenario)
        if job.threads is not None and scenario.engine.threads is None:
            engine = scenario.engine.model_copy(update={"threads": job.threads})
            scenario = scenario.model_copy(update={"engine": engine})
    return scenario, data_of(scenario, job.split)


def run_jobs(jobs: Sequence[Job]) -> list[tuple[str, float, str, str]]:
    """Execute or go on with several runs in this process, trained together."""
    if len(jobs) == 1:
        return [run_job(jobs[0])]
    from fedopt.comparison.splits import SharedExamples
    from fedopt.simulation.together import run_together

    names, examples = [Path(job.directory).name for job in jobs], SharedExamples()
    return run_together([lambda make, job=job: run_job(job, make, names, examples) for job in jobs])  # type: ignore[misc]


def worth_batching(job: Job) -> bool:
    """Whether training runs like this one together is faster; a run that cannot start is not batched."""
    from fedopt.simulation.assembly import assemble
    from fedopt.simulation.together import gains

    try:
        return gains(assemble(*loaded(job)))
    except Exception:  # the run itself will fail with the same error and report it
        return False
