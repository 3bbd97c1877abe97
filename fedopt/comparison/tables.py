"""The tables of a comparison: names, types and meanings, in one place. Written as CSV and Parquet.

``docs/compare.md`` is checked against the lists below. ``VERSION`` rises whenever a name, a type or a meaning changes;
it is stored in the metadata of every Parquet file. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from fedopt.runlog.files import replacing
from fedopt.schemas import Column

if TYPE_CHECKING:
    import pandas as pd

VERSION = 4

_INTEGER, _NUMBER, _TEXT, _TRUTH = pa.int64(), pa.float64(), pa.string(), pa.bool_()

CELL_KEYS = (
    Column("base", _TEXT, "Name of the base scenario; empty if there is one.", True),
    Column("variant", _TEXT, "Name of the method.", True),
    Column("level", _NUMBER, "Target epsilon or noise multiplier asked for; empty without."),
    Column("level_kind", _TEXT, "epsilon, noise_multiplier or empty.", True),
)

RUNS = (
    *CELL_KEYS,
    Column("seed", _INTEGER, "Seed of the run.", True),
    Column("status", _TEXT, "Status of the run's summary, or failed; running of an unfinished run.", True),
    Column("how", _TEXT, "executed, resumed, reused or failed.", True),
    Column("error", _TEXT, "Why it failed or diverged; empty otherwise."),
    Column("directory", _TEXT, "Run directory, relative to the comparison's folder where it lies inside.", True),
    Column("metric_name", _TEXT, "Name of the compared metric."),
    Column("goal", _TEXT, "max or min: which direction is better."),
    Column("metric", _NUMBER, "Compared metric at the last evaluation."),
    Column("test_loss", _NUMBER, "Test loss at the last evaluation."),
    Column("worst_decile", _NUMBER, "Mean metric of the worst tenth of the clients."),
    Column("epsilon", _NUMBER, "Privacy spent, on the ground of the next columns; empty without privacy."),
    Column("delta", _NUMBER, "Delta that belongs to epsilon."),
    Column("unit", _TEXT, "Whose data epsilon hides; a client that holds one example is an example."),
    Column("relation", _TEXT, "Neighbouring relation of epsilon."),
    Column("trust", _TEXT, "Who is trusted before noise is added."),
    Column("accountant", _TEXT, "Accountant that computed epsilon."),
    Column("hypothetical_population", _INTEGER, "Supposed population epsilon is for; empty for the real one."),
    Column("ground_remark", _TEXT, "How epsilon was accounted again, or why it could not be; empty for the run's own."),
    Column("claimed_epsilon", _NUMBER, "Epsilon as the run itself claims it, on its own ground."),
    Column("steps", _INTEGER, "Server steps made."),
    Column("time_s", _NUMBER, "Virtual time at the end, seconds."),
    Column("wall_s", _NUMBER, "Real time of the run, seconds."),
    Column("uplink_bytes", _INTEGER, "Bytes sent by clients."),
    Column("downlink_bytes", _INTEGER, "Bytes sent to clients."),
    Column("total_bytes", _INTEGER, "Bytes both ways."),
    Column("queries", _INTEGER, "Evaluations of the objective."),
    Column("target", _NUMBER, "Metric to reach for the columns below."),
    Column("steps_to_target", _INTEGER, "Server steps until the metric first reached the target; empty if never."),
    Column("time_to_target_s", _NUMBER, "Virtual seconds until then."),
    Column("bytes_to_target", _INTEGER, "Bytes both ways until then."),
    Column("queries_to_target", _INTEGER, "Objective evaluations until then."),
    Column("epsilon_to_target", _NUMBER, "Epsilon until then; only where epsilon is the run's own claim."),
    Column("chosen", _TEXT, "Tuned values as JSON; empty without tuning."),
)

CURVES = (
    *CELL_KEYS,
    Column("seed", _INTEGER, "Seed of the run.", True),
    Column("step", _INTEGER, "Server step of the evaluation.", True),
    Column("time_s", _NUMBER, "Virtual time, seconds.", True),
    Column("total_bytes", _INTEGER, "Bytes both ways so far.", True),
    Column("queries", _INTEGER, "Objective evaluations so far."),
    Column("claimed_epsilon", _NUMBER, "Privacy spent so far, on the run's own ground."),
    Column("metric", _NUMBER, "Compared metric."),
    Column("test_loss", _NUMBER, "Test loss."),
)

CELLS = (
    *CELL_KEYS,
    Column("runs", _INTEGER, "Runs asked for.", True),
    Column("seeds", _INTEGER, "Runs with a finite metric: what mean and interval are made of.", True),
    Column("diverged", _INTEGER, "Runs that diverged.", True),
    Column("failed", _INTEGER, "Runs that failed.", True),
    Column("unfinished", _INTEGER, "Runs still running or killed: in no mean, test or cost to the target.", True),
    Column("metric_name", _TEXT, "Name of the compared metric."),
    Column("mean", _NUMBER, "Mean of the metric over seeds."),
    Column("deviation", _NUMBER, "Standard deviation over seeds."),
    Column("low", _NUMBER, "Lower end of the t interval of the mean, as computed: not cut to what the metric can be."),
    Column("high", _NUMBER, "Upper end, likewise."),
    Column("worst_decile", _NUMBER, "Mean over the same runs of the worst tenth of the clients."),
    Column("epsilon", _NUMBER, "Largest epsilon of the runs."),
    Column("delta", _NUMBER, "Delta that belongs to epsilon."),
    Column("unit", _TEXT, "Unit of epsilon."),
    Column("relation", _TEXT, "Relation of epsilon."),
    Column("trust", _TEXT, "Trust model of epsilon."),
    Column("hypothetical_population", _INTEGER, "Supposed population of epsilon; empty for the real one."),
    Column(
        "time_s", _NUMBER, "Mean virtual time, seconds, of the runs with a finite metric, or of all if none has one."
    ),
    Column("total_bytes", _NUMBER, "Mean bytes both ways, likewise."),
    Column("queries", _NUMBER, "Mean objective evaluations, likewise."),
    Column("reached", _INTEGER, "Runs that reached the target.", True),
    Column(
        "time_to_target_s",
        _NUMBER,
        "Median virtual seconds to the target; a run that never reached it counts as infinite; empty if infinite.",
    ),
    Column("bytes_to_target", _NUMBER, "Median bytes to the target, likewise."),
    Column("queries_to_target", _NUMBER, "Median evaluations to the target, likewise."),
    Column(
        "epsilon_to_target",
        _NUMBER,
        "Median epsilon to the target, likewise; only where epsilon is the runs' own claim.",
    ),
    Column(
        "on_frontier",
        _TRUTH,
        "Whether no other method of its base and ground is at least as good in every criterion and better in one.",
    ),
)

TESTS = (
    *CELL_KEYS,
    Column("baseline", _TEXT, "Method it is tested against, at the same level.", True),
    Column("difference", _NUMBER, "Mean of the metric minus the baseline's, over shared seeds."),
    Column("low", _NUMBER, "Lower end of the t interval of the mean difference, not adjusted."),
    Column("high", _NUMBER, "Upper end."),
    Column("p_value", _NUMBER, "Two-sided paired t test."),
    Column("p_holm", _NUMBER, "Adjusted by Holm's method over all tests of the comparison."),
    Column("pairs", _INTEGER, "Shared seeds.", True),
    Column("verdict", _TEXT, "better, worse, not separable, or untested.", True),
)

TRIALS = (
    *CELL_KEYS,
    Column("trial", _INTEGER, "Number of the trial, from 0.", True),
    Column("values", _TEXT, "Tried values as JSON.", True),
    Column("status", _TEXT, "Status of the run, or failed.", True),
    Column("metric", _NUMBER, "Metric on the validation data at the last evaluation."),
    Column("epsilon", _NUMBER, "Epsilon the trial spent, on its own ground."),
    Column("is_chosen", _TRUTH, "Whether the comparison uses these values.", True),
    Column("epsilon_with_trials", _NUMBER, "Of the chosen: epsilon of all trials of its method and one more run."),
    Column("delta_with_trials", _NUMBER, "Delta that belongs to it; summed over the runs where epsilons are."),
)

TABLES = {"runs": RUNS, "cells": CELLS, "tests": TESTS, "curves": CURVES, "trials": TRIALS}


def frame(name: str, rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows as a tidy data frame with exactly the columns of the table."""
    import pandas as pd

    names = [column.name for column in TABLES[name]]
    unknown = {key for row in rows for key in row} - set(names)
    if unknown:
        raise ValueError(f"unknown columns of {name}: {', '.join(sorted(unknown))}")
    found = pd.DataFrame([[row.get(column) for column in names] for row in rows], columns=names)
    return found.astype({column.name: "float64" for column in TABLES[name] if column.type == _NUMBER})


def write(folder: Path, frames: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write every table as ``<name>.csv`` and ``<name>.parquet``."""
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, found in frames.items():
        table = _typed(name, found)
        for ending, save in (("parquet", parquet.write_table), ("csv", csv.write_csv)):
            with replacing(folder / f"{name}.{ending}") as temporary:
                save(table, temporary)
            written.append(folder / f"{name}.{ending}")
    return written


def _typed(name: str, found: pd.DataFrame) -> pa.Table:
    columns = TABLES[name]
    schema = pa.schema(
        [column.field() for column in columns],
        metadata={"fedopt_table": f"comparison.{name}", "fedopt_comparison_version": str(VERSION)},
    )
    rows = [{k: _plain(v) for k, v in row.items()} for row in found.to_dict("records")]
    return pa.Table.from_pylist(rows, schema=schema)


def _plain(value: object) -> object:
    """pandas turns missing integers into nan; back to None."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def markdown() -> str:
    """The tables of ``docs/compare.md``, made from the definitions above."""
    parts = []
    for name, columns in TABLES.items():
        lines = [f"### `{name}`", "", "| column | type | always | meaning |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {'yes' if c.required else ''} | {c.description} |" for c in columns]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
