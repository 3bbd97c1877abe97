"""From run directories to tables: numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from comparison.fabricated import fabricate, privacy

from fedopt.comparison import tables
from fedopt.comparison.directories import entries_of
from fedopt.comparison.expansion import Cell
from fedopt.comparison.figures import all_figures
from fedopt.comparison.results import Entry, Judging, Results, collect
from fedopt.comparison.runs import is_finished
from fedopt.comparison.words import costs_in_words, records, seeds_of, trouble, verdicts
from fedopt.scenario_file import ScenarioError

FIRST = [(0.1, 0.5, 0.80), (0.1, 0.6, 0.82), (0.1, 0.7, 0.81)]
BETTER = [(0.1, 0.85, 0.90), (0.1, 0.8, 0.92), (0.1, 0.9, 0.915)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("runs")
    entries = []
    for seed in range(3):
        a = fabricate(folder / f"a{seed}", list(FIRST[seed]), seed, clients=(0.2, 0.9, 0.8))
        b = fabricate(folder / f"b{seed}", list(BETTER[seed]), seed, clients=(0.7, 0.9, 0.8))
        p = fabricate(folder / f"p{seed}", [0.1, 0.3, 0.4], seed, privacy(2.0))
        entries += [Entry(Cell("", "A"), seed, a), Entry(Cell("", "B"), seed, b)]
        entries.append(Entry(Cell("", "P", 2.0, "epsilon"), seed, p))
    entries.append(Entry(Cell("", "P", 2.0, "epsilon"), 3, folder / "none", "failed", "ValueError: too few examples"))
    return collect(entries, Judging(baseline="A"), folder)


def cell(results: Results, variant: str) -> dict:
    return next(row for row in records(results.cells) if row["variant"] == variant)


def test_means_spread_and_failures(results: Results) -> None:
    a, p = cell(results, "A"), cell(results, "P")
    assert a["mean"] == pytest.approx(0.81) and a["deviation"] == pytest.approx(0.01) and a["seeds"] == 3
    assert a["high"] - a["mean"] == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
    assert p["runs"] == 4 and p["failed"] == 1 and p["seeds"] == 3
    assert "1 of 10 runs failed: P, epsilon 2, seed 3." in trouble(results)


def test_costs_to_the_target_are_those_of_the_first_step_that_reached_it(results: Results) -> None:
    # The target is what the baseline ends with: 0.81. B reaches it at steps 1, 2, 1; two of A's seeds reach it at 2.
    a, b, p = (cell(results, name) for name in "ABP")
    assert b["reached"] == 3 and b["time_to_target_s"] == 1 and b["bytes_to_target"] == 200, "medians"
    assert a["reached"] == 2 and a["time_to_target_s"] == 2, "the median of 2, 2 and never"
    assert p["reached"] == 0 and p["time_to_target_s"] is None


def test_epsilon_to_a_target(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "p", [0.1, 0.3, 0.4], 0, privacy(2.0))
    found = collect([Entry(Cell("", "P"), 0, run)], Judging(baseline="P", target=0.3), tmp_path)
    assert records(found.runs)[0]["epsilon_to_target"] == 1.0, "half of epsilon 2 at step 1 of 2"
    again = collect([Entry(Cell("", "P"), 0, run)], Judging(baseline="P", target=0.3, relation="replace_one"), tmp_path)
    assert records(again.runs)[0]["epsilon_to_target"] is None, "steps are not accounted again, so nothing is claimed"


def test_worst_decile_is_averaged_over_seeds(results: Results) -> None:
    assert cell(results, "A")["worst_decile"] == pytest.approx(0.2)
    assert cell(results, "B")["worst_decile"] == pytest.approx(0.7)


def test_tests_against_the_baseline(results: Results) -> None:
    rows = {row["variant"]: row for row in records(results.tests)}
    assert set(rows) == {"B", "P"} and rows["B"]["difference"] == pytest.approx((0.10 + 0.10 + 0.105) / 3)
    assert rows["B"]["verdict"] == "better" and rows["P"]["verdict"] == "worse"
    assert rows["B"]["p_holm"] == pytest.approx(max(2 * min(r["p_value"] for r in rows.values()), rows["B"]["p_value"]))


def test_words_say_what_is_and_is_not_separable(results: Results) -> None:
    said, lacking, note = verdicts(results, 0.95)
    assert said == "Against A: B (+0.1) is better; P, epsilon 2 (-0.41) is worse."
    assert lacking == "Seeds with a result: P, epsilon 2, 3 of 4 (1 failed). Means and tests are over those."
    assert "Holm's method over all 2" in note and "Not separable" not in note


def test_words_say_how_large_a_difference_is_left_open(tmp_path: Path) -> None:
    values = {"A": (0.5, 0.6, 0.7), "B": (0.56, 0.58, 0.72)}
    entries = [
        Entry(Cell("", name, 2.0, "epsilon"), seed, fabricate(tmp_path / f"{name}{seed}", [value], seed))
        for name, ends in values.items()
        for seed, value in enumerate(ends)
    ]
    found = collect(entries, Judging(baseline="A"), tmp_path)
    said, note = verdicts(found, 0.95)
    assert said == "Against A, epsilon 2: B (+0.02) is not separable from noise."
    (row,) = records(found.tests)
    assert (
        f"Not separable does not mean equal: the intervals of those differences reach as far as {row['high']:.2g}"
        in note
    )


def test_only_clients_with_one_example_each_make_client_level_example_level(tmp_path: Path) -> None:
    def unit(name: str, **more: object) -> str:
        run = fabricate(tmp_path / name, [0.5], 0, privacy(1.0), **more)  # type: ignore[arg-type]
        return records(collect([Entry(Cell("", "P"), 0, run)], Judging(baseline="P"), tmp_path).runs)[0]["unit"]

    assert unit("ones", clients=(0.1, 0.2), examples=1) == "example"
    assert unit("many", clients=(0.1, 0.2), examples=2) == "client" and unit("unknown") == "client"


def test_a_lower_metric_can_be_better(tmp_path: Path) -> None:
    entries = []
    for seed, (low, high) in enumerate([(0.9, 0.5), (0.91, 0.52), (0.9, 0.49)]):
        entries.append(Entry(Cell("", "A"), seed, fabricate(tmp_path / f"a{seed}", [low], seed)))
        entries.append(Entry(Cell("", "B"), seed, fabricate(tmp_path / f"b{seed}", [high], seed)))
    found = collect(entries, Judging(metric="test_loss", baseline="A"), tmp_path)
    (row,) = records(found.tests)
    assert row["difference"] > 0.3 and row["verdict"] == "worse", "a larger loss is worse"


def test_frontier_over_all_four_criteria(results: Results) -> None:
    # Same time and bytes: B beats A; P is private, so it stays.
    assert [row["on_frontier"] for row in records(results.cells)] == [False, True, True]


ASKED = [((10, 30), (True, False)), ((30, 30), (True, True)), ((0, 30), (True, True))]


@pytest.mark.parametrize(("asked", "kept"), ASKED)
def test_evaluations_count_for_the_frontier_where_every_method_asks_for_values(
    tmp_path: Path, asked: tuple[int, int], kept: tuple[bool, bool]
) -> None:
    entries = [
        Entry(Cell("", name), 0, fabricate(tmp_path / name, [0.1, 0.8], queries=each))
        for name, each in zip("AB", asked, strict=True)
    ]
    found = collect(entries, Judging(baseline="A"), tmp_path)
    assert tuple(row["on_frontier"] for row in records(found.cells)) == kept
    names, words = costs_in_words(found)
    assert names[-1] == "evaluations" and words == [
        ["1 s", "200 B", str(asked[0] or "\u2013")],
        ["1 s", "200 B", "30"],
    ]
    drawn = all_figures(found, 0.95)
    assert drawn["learning"][0].views[0].label == "virtual time"
    assert ("evaluations" in [view.label for view in drawn["frontier"][0].views]) == all(asked)


@pytest.mark.parametrize(("asked", "first"), [((10, 30), "evaluations"), ((0, 30), "server steps")])
def test_without_times_black_boxes_are_drawn_over_evaluations(
    tmp_path: Path, asked: tuple[int, int], first: str
) -> None:
    """A round is one step of some methods and two of others."""
    entries = [
        Entry(Cell("", name), 0, fabricate(tmp_path / name, [0.1, 0.8], queries=each, seconds=0.0))
        for name, each in zip("AB", asked, strict=True)
    ]
    drawn = all_figures(collect(entries, Judging(baseline="A"), tmp_path), 0.95)
    assert drawn["learning"][0].views[0].label == first


def test_diverged_runs_are_left_out_of_means_and_named(tmp_path: Path) -> None:
    entries = [
        Entry(Cell("", "A"), 0, fabricate(tmp_path / "a", [0.1, 0.8])),
        Entry(Cell("", "A"), 1, fabricate(tmp_path / "b", [0.1, 0.1], 1, status="diverged")),
    ]
    found = collect(entries, Judging(baseline="A"), tmp_path)
    (row,) = records(found.cells)
    assert row["mean"] == 0.8 and row["diverged"] == 1 and row["seeds"] == 1
    assert "1 of 2 runs diverged: A, seed 1. Means leave them out and flatter their methods." in trouble(found)


def without_results(tmp_path: Path, status: str) -> Results:
    """Three methods; B's runs have ``status``, and those of C half of the time."""
    entries = []
    for seed in range(4):
        for name, end, of in (("A", 0.5, "finished"), ("B", 0.9, status), ("C", 0.6, (status, "finished")[seed % 2])):
            run = fabricate(tmp_path / f"{name}{seed}", [0.1, end + 0.01 * seed], seed, status=of)
            entries.append(Entry(Cell("", name), seed, run))
    return collect(entries, Judging(baseline="A"), tmp_path)


@pytest.mark.parametrize("status", ["diverged", "failed", "running"])
def test_runs_without_a_result_are_in_no_mean_test_or_frontier_and_are_named(tmp_path: Path, status: str) -> None:
    found = without_results(tmp_path, status)
    a, b, c = (cell(found, name) for name in "ABC")
    named = {"diverged": "diverged", "failed": "failed", "running": "unfinished"}[status]
    assert (b["mean"], b["seeds"], b[named], b["on_frontier"]) == (None, 0, 4, False)
    assert c["mean"] == pytest.approx(0.62) and c["seeds"] == 2 and c[named] == 2
    assert seeds_of(c) == f"2 of 4 (2 {named})" and seeds_of(a) == "4"
    said = verdicts(found, 0.95)
    assert "B could not be tested: that takes at least two seeds shared with the baseline." in said
    assert f"Seeds with a result: B, 0 of 4 (4 {named}); C, 2 of 4 (2 {named}). Means and tests are over those." in said
    words = {
        "diverged": "runs diverged",
        "failed": "runs failed",
        "running": "runs have not finished (still running, or",
    }
    assert f"6 of 12 {words[status]}" in trouble(found) and "; and 1 more." in trouble(found)
    errors = {row["error"] for row in records(found.runs) if row["status"] == status}
    assert errors == ({None} if status == "running" else {"as planned"})


def test_holm_counts_the_tests_that_were_made(tmp_path: Path) -> None:
    found = without_results(tmp_path, "failed")
    (row,) = [row for row in records(found.tests) if row["verdict"] != "untested"]
    assert row["p_holm"] == row["p_value"] and not any("Holm" in sentence for sentence in verdicts(found, 0.95))


def test_costs_are_means_over_the_runs_that_have_a_mean(tmp_path: Path) -> None:
    runs = [fabricate(tmp_path / "a", [0.1, 0.3, 0.8]), fabricate(tmp_path / "b", [0.1], 1, status="diverged")]
    found = collect([Entry(Cell("", "A"), i, run) for i, run in enumerate(runs)], Judging(baseline="A"), tmp_path)
    assert cell(found, "A")["time_s"] == 2 and cell(found, "A")["total_bytes"] == 400, "an early end is not cheap"


def test_an_unfinished_run_neither_reached_nor_missed_the_target(tmp_path: Path) -> None:
    runs = [fabricate(tmp_path / "a", [0.1, 0.8]), fabricate(tmp_path / "b", [0.1, 0.2], 1, status="running")]
    found = collect([Entry(Cell("", "A"), i, run) for i, run in enumerate(runs)], Judging(target=0.7), tmp_path)
    assert cell(found, "A")["time_to_target_s"] == 1 and cell(found, "A")["reached"] == 1


@pytest.mark.parametrize(("status", "kept"), [("finished", True), ("failed", True), ("running", False)])
def test_a_run_that_ended_badly_is_not_tried_again(tmp_path: Path, status: str, kept: bool) -> None:
    assert is_finished(fabricate(tmp_path / "run", [0.5], status=status)) is kept


def test_tables_are_typed_documented_and_versioned(results: Results, tmp_path: Path) -> None:
    written = tables.write(tmp_path, {"runs": results.runs, "cells": results.cells, "curves": results.curves})
    assert sorted(p.name for p in written)[:2] == ["cells.csv", "cells.parquet"]
    table = parquet.read_table(tmp_path / "runs.parquet")
    assert table.column_names == [column.name for column in tables.RUNS] and table.num_rows == 10
    assert table.schema.metadata[b"fedopt_comparison_version"] == b"4"
    assert str(table.schema.field("seed").type) == "int64" and table["steps"].null_count == 1
    with pytest.raises(ValueError, match="unknown columns of runs: invented"):
        tables.frame("runs", [{"invented": 1}])


def test_documentation_lists_the_tables() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "compare.md").read_text()
    assert tables.markdown() in page, "docs/compare.md is behind fedopt/comparison/tables.py"


# ---- directories ---------------------------------------------------------------------------------------------------


def test_directories_that_differ_in_their_seed_are_one_method(tmp_path: Path) -> None:
    slow, fast = {"client": {"kind": "sgd", "lr": 0.1}}, {"client": {"kind": "sgd", "lr": 0.5}}
    paths = [
        fabricate(tmp_path / f"r{i}", [0.5], seed, scenario=scenario)
        for i, (seed, scenario) in enumerate([(0, slow), (1, slow), (0, fast)])
    ]
    labels = [entry.cell.variant for entry in entries_of(paths)]
    assert labels == ["made, client.lr 0.1", "made, client.lr 0.1", "made, client.lr 0.5"]
    with pytest.raises(ScenarioError, match=r"repeats .*r0: the same scenario with the same seed"):
        entries_of([paths[0], paths[0]])
    with pytest.raises(ScenarioError, match=r"holds no run; its folders do: give .*/\*"):
        entries_of([tmp_path])
