"""Running a scenario at random: whole, interrupted and resumed, or computed in other pieces."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

from fuzz import laws

from fedopt.api import Run
from fedopt.runlog import read_clients, read_rounds, read_updates
from fedopt.scenario import Scenario, load
from fedopt.simulation.session import Session
from fedopt.verify import _differences, table_differences

# Means over values, which may differ in their last bits when sums are made in another order.
ABOUT = ("train_loss", "test_loss", "metric_value", "test_accuracy", "clip_fraction", "update_norm", "local_metric",
         "local_loss")  # fmt: skip


FULL = "its updates do not fit engine.memory_gib"  # found out where a cohort is too large, not before


class Interrupted(Exception):
    """The run is stopped here."""


def faults(scenario: Scenario, directory: Path, seed: int) -> list[str]:
    """Laws that a scenario's run breaks: on its own, after a stop and a resume, and computed in other pieces.

    Args:
        scenario: any that was accepted.
        directory: empty; the runs are written below it.
        seed: decides where the run stops and into which pieces it is cut.
    Raises:
        ValueError: the run was refused once data and model were there.
    """
    dice = random.Random(seed)
    run, parts = whole(scenario, directory / "whole")
    found = laws.broken(run, parts)
    stop = dice.randint(1, max(1, run.summary["steps"]))
    again = resumed(scenario, directory / "resumed", stop, threads=dice.choice([1, 2]))
    found += [f"resumed after step {stop}: {text}" for text in same_bits(run, again)]
    pieces = {
        "chunk": dice.choice([1, 2, 5, "auto"]),
        "block": dice.choice([1, 3, "auto"]),
        "memory_gib": dice.choice([1.0, 1e-9, 3e-6]),
    }
    if run.summary["status"] == "diverged" or seed % 2:
        return found
    try:
        other = in_other_pieces(scenario, directory / "pieces", **pieces)
    except ValueError as error:
        return found if FULL in str(error) else [*found, f"{pieces}: {error}"]
    found += [f"{pieces}: {text}" for text in same_course(run, other)]
    if distance(run, other) > 1e-3:
        found.append(f"{pieces}: the models differ by {distance(run, other):.2g}")
    return found


def whole(scenario: Scenario, directory: Path) -> tuple[Run, Any]:
    """A run to its end, and the parts it was made of."""
    session = Session(scenario, directory, quiet=True)
    session.run()
    return Run(directory), session.parts


def resumed(scenario: Scenario, directory: Path, step: int, threads: int) -> Run:
    """The same with a stop at a server step, gone on with by another number of threads."""
    session = Session(scenario, directory, quiet=True)
    after = session._on_step

    def stopping(stepped: Any, metrics: dict[str, float]) -> str | None:
        reason = after(stepped, metrics)
        if stepped.step == step:
            raise Interrupted
        return reason

    session._on_step = stopping  # type: ignore[method-assign]
    with contextlib.suppress(Interrupted):
        session.run()
        return Run(directory)  # it never came to that step
    again = load(directory / "scenario.yaml")
    engine = again.engine.model_copy(update={"threads": threads})
    Session(again.model_copy(update={"engine": engine}), directory, quiet=True).run(resume=True)
    return Run(directory)


def in_other_pieces(scenario: Scenario, directory: Path, **settings: Any) -> Run:
    """The same with other ``engine`` settings that may change last bits only."""
    engine = scenario.engine.model_copy(update=settings)
    return whole(scenario.model_copy(update={"engine": engine}), directory)[0]


def same_bits(first: Run, second: Run) -> list[str]:
    """How two runs differ in tables, summary, model and ledger, by their bits."""
    return _differences(first.directory, second.directory)


def same_course(first: Run, second: Run) -> list[str]:
    """How two runs differ in who did what when, in their counters and in epsilon."""
    found = []
    for name, read in (("rounds", read_rounds), ("updates", read_updates), ("clients", read_clients)):
        tables = [read(run.directory) for run in (first, second)]
        kept = [name for name in tables[0].column_names if name not in ABOUT]
        found += table_differences(name, *(table.select(kept) for table in tables))
    for key in ("status", "steps", "time_s", "uplink_bytes", "downlink_bytes", "queries", "dispatches", "epsilon"):
        if first.summary.get(key) != second.summary.get(key):
            found.append(f"summary: {key} is {first.summary.get(key)} and {second.summary.get(key)}")
    return found


def distance(first: Run, second: Run) -> float:
    """Largest relative difference of two final models, by the norm of each tensor."""
    one, other = first.parameters(), second.parameters()
    pairs = [(one[name].double(), other[name].double()) for name in one]
    return max((float((a - b).norm() / (1e-6 + a.norm())) for a, b in pairs), default=0.0)
