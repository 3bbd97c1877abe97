"""``fedopt.compare``: describe or point at runs, get tidy tables, figures and a report."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedopt.comparison import paper, tables
from fedopt.comparison.description import Described, read_description
from fedopt.comparison.expansion import computing_code, expand
from fedopt.comparison.page import Background, comparison_page
from fedopt.comparison.results import Entry, Judging, Results, collect
from fedopt.comparison.runs import Done, execute
from fedopt.comparison.summary import as_markdown
from fedopt.report.figures import Figure
from fedopt.report.page import render_page
from fedopt.runlog import check_writable, write_atomically
from fedopt.scenario_file import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

REPORT, SUMMARY = "compare.html", "compare.md"
DEFAULT_OUT = Path("reports")
MOST_SHOWN = 4  # run directories named in the command that the report repeats


@dataclass(frozen=True, repr=False)
class Comparison:
    """A finished comparison: tables as data frames, figures, and where everything lies.

    Args:
        directory: holds ``compare.html``, ``tables/``, ``figures/`` and, if runs were executed, ``runs/``.
        results: tables and claims.
        judging: how the runs were judged.
        plots: the plots of the page by name.
        trials: table of tuning trials, or None.
    """

    directory: Path
    results: Results
    judging: Judging
    plots: dict[str, Figure] = field(default_factory=dict)
    trials: pd.DataFrame | None = None

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run; columns in docs/compare.md."""
        return self.results.runs

    @property
    def cells(self) -> pd.DataFrame:
        """One row per method, noise level and base: mean, interval, costs."""
        return self.results.cells

    @property
    def tests(self) -> pd.DataFrame:
        """Paired tests against the baseline."""
        return self.results.tests

    @property
    def curves(self) -> pd.DataFrame:
        """One row per evaluation of every run."""
        return self.results.curves

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.directory / REPORT

    @property
    def failed(self) -> int:
        """Number of runs that failed."""
        return int((self.runs["status"] == "failed").sum())

    def figure(self, name: str | None = None, view: int = 0) -> Any:
        """A matplotlib figure, to show in a notebook or to change.

        Args:
            name: one of ``plots``; default the first.
            view: which horizontal axis, where there is a choice.
        Raises:
            KeyError: no such plot.
        """
        return paper.as_matplotlib(self.plots[name or next(iter(self.plots))], view)

    def words(self) -> list[str]:
        """Runs without a result, then what is and what is not separable from noise."""
        from fedopt.comparison.words import trouble, verdicts

        return [*filter(None, [trouble(self.results)]), *verdicts(self.results, self.judging.confidence)]

    def __repr__(self) -> str:
        return f"Comparison({len(self.runs)} runs, {len(self.cells)} methods and levels; {self.report})"

    def _repr_html_(self) -> str:
        """Verdicts and the table of methods in a notebook."""
        from fedopt.report.text import paragraphs

        shown = self.cells[["base", "variant", "level", "seeds", "mean", "low", "high", "epsilon", "trust"]]
        return f"{paragraphs(*self.words())}{shown.to_html(index=False)}<a href='{self.report}'>report</a>"


def compare(
    source: str | Path | Mapping[str, Any] | Sequence[str | Path],
    out: str | Path | None = None,
    processes: int | None = None,
    quiet: bool = True,
    baseline: str | None = None,
    relation: str | None = None,
    delta: float | None = None,
    batch_runs: str | None = None,
) -> Comparison:
    """Compare methods: execute what is missing, reuse what is there, judge, and write the report.

    Args:
        source: a comparison file, the same as a mapping, or run directories that exist.
        out: folder; the comparison lies in ``out/<name>`` (default ``reports``); for directories in
            ``out/compare-<hash>``, the same for the same runs judged in the same way.
        processes: runs at the same time; default: the file's.
        quiet: print nothing.
        baseline, relation, delta, batch_runs: replace those of the file.
    Returns:
        The comparison. A failed run is in its tables; it does not raise.
    Raises:
        ScenarioError: the description has problems (all of them are listed), or a directory holds no run.
        RunLogError: nothing can be written.
    """
    base = Path(out) if out is not None else DEFAULT_OUT
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = [source]
    if isinstance(source, Sequence) and not isinstance(source, str):
        return compare_directories([Path(p) for p in source], base, baseline, relation, delta)
    changes = {"baseline": baseline, "relation": relation, "delta": delta, "processes": processes}
    changes["batch_runs"] = batch_runs
    changes = {key: value for key, value in changes.items() if value is not None}
    described = checked_description(dict(source) if isinstance(source, Mapping) else source, changes)
    command = "fedopt.compare({...})" if isinstance(source, Mapping) else _command([str(source)], changes)
    return _execute(described, base, quiet, command)


def checked_description(source: str | Path | dict[str, Any], changes: Mapping[str, Any] | None = None) -> Described:
    """Read a comparison and check every run and trial of it before anything is computed.

    Args:
        source: a comparison file, or the same as a mapping.
        changes: keys given on the command line.
    Raises:
        ScenarioError: every problem of the file, of the changes and of all runs, each once.
    """
    described, errors = read_description(source)
    if described is not None:
        try:
            described = _changed(described, dict(changes or {}))
        except ScenarioError as error:
            errors += error.problems
        errors += [problem for problem in _problems_of_runs(described) if problem not in errors]
    if errors or described is None:
        raise ScenarioError(errors)
    return described


def _command(sources: Sequence[str], changes: Mapping[str, Any]) -> str:
    """What was typed, but for how much is printed and where the report goes."""
    options = [f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in changes.items()]
    return " ".join(["fedopt compare", *map(shlex.quote, sources), *options])


def _changed(described: Described, changes: dict[str, Any]) -> Described:
    from fedopt.comparison.description import Description
    from fedopt.components import parse
    from fedopt.problems import Problem

    if not changes:
        return described
    problems: list[Problem] = []
    found = parse(Description, {**described.description.model_dump(), **changes}, (), problems)
    if isinstance(found, Description) and found.reference not in found.variants:
        problems.append(Problem(path=("baseline",), message=f"{found.reference!r} is no variant"))
    if problems or not isinstance(found, Description):
        raise ScenarioError([f"{'.'.join(map(str, p.path))}: {p.message}" for p in problems])
    return Described(found, described.bases, described.where)


def _execute(described: Described, out: Path, quiet: bool, command: str) -> Comparison:
    description = described.description
    folder = out / description.name
    check_writable(folder)
    chosen: dict[Any, dict[str, Any]] = {}
    sentences: list[str] = []
    trials = None
    if description.tune is not None:
        from fedopt.comparison.tuning import tune

        chosen, sentences, trials = tune(described, folder / "tuning", quiet)
    done = execute(
        expand(described, chosen),
        folder / "runs",
        description.processes,
        quiet,
        description.executor,
        description.name,
        description.batch_runs,
    )
    judging = Judging(
        description.metric,
        description.goal,
        description.target,
        description.reference,
        description.confidence,
        description.relation,
        description.delta,
    )
    entries = [_entry(d) for d in done]
    background = Background(
        description.title or description.name, description.question, command, sentences, trials, computing_code()
    )
    return write(collect(entries, judging, folder), judging, background, folder)


def _problems_of_runs(described: Described) -> list[str]:
    problems: list[str] = []
    try:
        expand(described)
    except ScenarioError as error:
        problems += error.problems
    if described.description.tune is not None:
        from fedopt.comparison.tuning import plan_trials

        try:
            plan_trials(described)
        except ScenarioError as error:
            problems += error.problems
    return problems


def _entry(done: Done) -> Entry:
    return Entry(done.run.cell, done.run.seed, done.directory, done.how, done.error, done.run.chosen)


def compare_directories(
    directories: Sequence[Path], out: Path, baseline: str | None, relation: Any, delta: float | None
) -> Comparison:
    """Compare runs that exist; runs that differ only in their seed are one method."""
    from fedopt.comparison.directories import entries_of

    entries = entries_of(directories)
    names = dict.fromkeys(entry.cell.variant for entry in entries)
    reference = baseline or next(iter(names))
    if reference not in names:
        raise ScenarioError([f"baseline {reference!r} is no method; found: {', '.join(names)}."])
    judging = Judging(baseline=reference, relation=relation, delta=delta)
    folder = out / f"compare-{_content_of(entries, judging)}"
    check_writable(folder)
    given = {"baseline": baseline, "relation": relation, "delta": delta}
    shown = [str(path) for path in directories[:MOST_SHOWN]]
    command = _command(shown, {key: value for key, value in given.items() if value is not None})
    if len(directories) > MOST_SHOWN:
        command += f" (and {len(directories) - MOST_SHOWN} more run directories, see Runs)"
    return write(collect(entries, judging, folder), judging, Background("Comparison", command=command), folder)


def _content_of(entries: Sequence[Entry], judging: Judging) -> str:
    """8 hexadecimal digits of which runs are compared and how they are judged, whatever their order."""
    runs = sorted(str(entry.directory.resolve()) for entry in entries)
    body = json.dumps([runs, judging.baseline, judging.relation, judging.delta])
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def write(results: Results, judging: Judging, background: Background, folder: Path) -> Comparison:
    """Write the report, the tables and the figures.

    Raises:
        RunLogError: something cannot be written.
    """
    page, plots = comparison_page(results, judging, background)
    frames = {"runs": results.runs, "cells": results.cells, "tests": results.tests, "curves": results.curves}
    if background.trials is not None:
        frames["trials"] = background.trials
    tables.write(folder / "tables", frames)
    paper.draw(plots, folder / "figures")
    write_atomically(folder / SUMMARY, as_markdown(results, judging, background, plots))
    write_atomically(folder / REPORT, render_page(page))
    return Comparison(folder, results, judging, {p.name: p for p in plots}, background.trials)
