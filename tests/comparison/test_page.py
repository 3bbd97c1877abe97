"""The report of a comparison: what stands on it, what is kept apart, how large it gets."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from comparison.fabricated import curve, fabricate, privacy

from fedopt.comparison.api import write
from fedopt.comparison.expansion import Cell
from fedopt.comparison.page import Background, comparison_page
from fedopt.comparison.paper import as_matplotlib
from fedopt.comparison.results import Entry, Judging, collect
from fedopt.comparison.trim import trim
from fedopt.comparison.words import records
from fedopt.report.figures import Figure
from fedopt.report.page import render_page

LOCAL = {"trust": "local"}


def entries(folder: Path, methods: dict, seeds: int = 2, steps: int = 4) -> list[Entry]:
    """Method -> (level, final metric, privacy document or None)."""
    found = []
    for i, (name, (level, end, document)) in enumerate(methods.items()):
        for seed in range(seeds):
            directory = fabricate(folder / f"{i}-{seed}", curve(steps, end, 10 * i + seed), seed, document)
            cell = Cell("", name.split("@")[0], level, "epsilon" if level else "")
            found.append(Entry(cell, seed, directory))
    return found


def page_of(found: list[Entry], folder: Path, **judging: object) -> tuple[dict[str, Figure], str]:
    asked = Judging(baseline=found[0].cell.variant, **judging)  # type: ignore[arg-type]
    page, figures = comparison_page(collect(found, asked, folder), asked, Background("<b>Title</b>"))
    return {figure.name: figure for figure in figures}, render_page(page)


def names(figure: Figure) -> list[str]:
    return [trace["name"] for trace in figure.traces if trace.get("showlegend", True)]


def test_epsilons_of_another_meaning_get_a_panel_of_their_own_and_the_page_says_why(tmp_path: Path) -> None:
    methods = {
        "plain": (None, 0.9, None),
        "central@2": (2.0, 0.6, privacy(2.0)),
        "central@8": (8.0, 0.8, privacy(8.0)),
        "local@8": (8.0, 0.5, privacy(8.0, **LOCAL)),
        "example@8": (8.0, 0.7, privacy(8.0, unit="example")),
    }
    figures, html = page_of(entries(tmp_path, methods), tmp_path)
    panels = [figure for name, figure in figures.items() if name.startswith("utility-epsilon")]
    assert [names(panel) for panel in panels] == [
        ["central [central]", "local [local]", "plain [no privacy]"],
        ["example [central]", "plain [no privacy]"],
    ]
    dashes = {t["name"]: t["line"]["dash"] for t in panels[0].traces if t.get("showlegend", True)}
    assert len(set(dashes.values())) == 3, "trust models are told apart by line style"
    assert "unit client, zero_out_one, delta 1e-05" in panels[0].layout["xaxis"]["title"]["text"]
    assert "The runs differ in unit: their epsilons bound different things" in html
    assert "differ in whom they trust (central, local)" in html


def test_common_ground_puts_relations_on_one_axis(tmp_path: Path) -> None:
    methods = {"a@1": (1.0, 0.6, privacy(1.0)), "b@1": (1.0, 0.7, privacy(1.0, relation="replace_one"))}
    found = entries(tmp_path, methods)
    apart, _ = page_of(found, tmp_path)
    together, html = page_of(found, tmp_path, relation="replace_one")
    assert "utility-epsilon-1" in apart and "utility-epsilon-1" not in together
    assert "accounted again: zero_out_one at delta 1e-05 gave epsilon 1" in html


def test_the_page_holds_words_tests_frontier_and_no_unescaped_text(tmp_path: Path) -> None:
    found = entries(tmp_path, {"A": (None, 0.8, None), "B<script>": (None, 0.5, None)})
    figures, html = page_of(found, tmp_path, target=0.4)
    assert "<b>Title" not in html and "B<script>" not in html and "B&lt;script&gt;" in html
    assert "Paired t tests over shared seeds, at 5%" in html and html.count("<h2") >= 6
    assert {"learning", "frontier", "target"} <= set(figures) and "utility-epsilon" not in figures
    assert figures["learning"].views[0].label == "virtual time" and "Somebody 2020" in html


def test_a_mean_curve_is_over_the_steps_all_seeds_evaluated(tmp_path: Path) -> None:
    runs = [fabricate(tmp_path / "a", [0.1, 0.3, 0.5], 0), fabricate(tmp_path / "b", [0.3, 0.5], 1)]
    found = [Entry(Cell("", "A"), seed, run) for seed, run in enumerate(runs)]
    figures, _ = page_of(found, tmp_path)
    line = figures["learning"].traces[-1]
    assert line["x"] == [0, 1] and line["y"] == pytest.approx([0.2, 0.4])
    assert figures["learning"].views[2].x[-1] == [0, 200]
    upper = figures["learning"].traces[1]["y"]
    assert upper == pytest.approx([min(1, 0.2 + 12.7062 * 0.1), 1.0]), "t with one degree of freedom, cut at 1"


def test_learning_curves_of_runs_without_a_result_do_not_count(tmp_path: Path) -> None:
    killed = {"status": "running"}
    runs = [
        Entry(Cell("", "A"), 0, fabricate(tmp_path / "a", [0.1, 0.3, 0.5], 0)),
        Entry(Cell("", "A"), 1, fabricate(tmp_path / "b", [0.3, 0.5], 1, **killed)),  # type: ignore[arg-type]
        Entry(Cell("", "B"), 0, fabricate(tmp_path / "c", [0.2, 0.4], 0, **killed)),  # type: ignore[arg-type]
    ]
    figures, html = page_of(runs, tmp_path)
    lines = {trace["name"]: trace["y"] for trace in figures["learning"].traces}
    assert lines == {"A": [0.1, 0.3, 0.5], "B (1 unfinished)": [0.2, 0.4]}
    assert "2 of 3 runs have not finished (still running, or killed): A, seed 1; B, seed 0." in html
    assert html.count("<td>unfinished</td>") == 2 and "1 of 2 (1 unfinished)" in html


def test_intervals_are_drawn_as_far_as_the_metric_can_be(tmp_path: Path) -> None:
    ends = {"A": [(0.1, 0.4), (0.1, 0.97)], "B": [(0.1, 0.5), (0.1, 0.52)]}
    found = [
        Entry(
            Cell("", name, 2.0, "epsilon"), seed, fabricate(tmp_path / f"{name}{seed}", list(run), seed, privacy(2.0))
        )
        for name, runs in ends.items()
        for seed, run in enumerate(runs)
    ]
    figures, _ = page_of(found, tmp_path)
    wide = records(collect(found, Judging(baseline="A"), tmp_path).cells)[0]
    assert wide["low"] < 0 and wide["high"] > 1, "the table holds the interval as computed"
    for name in ("frontier", "utility-epsilon"):
        bars = figures[name].traces[0]["error_y"]
        assert not bars["symmetric"] and bars["color"].startswith("var(--series")
        assert (bars["array"], bars["arrayminus"]) == (pytest.approx([1 - 0.685]), pytest.approx([0.685]))
        (drawn, *_), *_ = (bar.get_segments() for bar in as_matplotlib(figures[name]).axes[0].collections)
        assert drawn[:, 1].tolist() == pytest.approx([0, 1]), "on paper too"


def test_bands_go_with_their_line_and_stay_possible(tmp_path: Path) -> None:
    figures, _ = page_of(entries(tmp_path, {"A": (None, 0.97, None)}), tmp_path)
    lower, upper, line = figures["learning"].traces
    assert lower["legendgroup"] == upper["legendgroup"] == line["legendgroup"] == "A"
    assert not lower["showlegend"] and upper["fill"] == "tonexty" and upper["fillcolor"] == "var(--series-1)/0.18"
    assert max(upper["y"]) <= 1 and min(lower["y"]) >= 0
    assert all(low <= y <= high for low, y, high in zip(lower["y"], line["y"], upper["y"], strict=True))


def test_fifty_runs_of_a_thousand_steps_stay_small_and_are_made_fast(tmp_path: Path) -> None:
    document = privacy(4.0)
    methods = {f"m{i % 5}@{i // 5 + 1}": (float(i // 5 + 1), 0.5 + 0.04 * (i // 5), document) for i in range(10)}
    ten = entries(tmp_path, methods, seeds=1, steps=1000)
    found = [Entry(ten[i].cell, seed, ten[(i + seed) % 10].directory) for i in range(10) for seed in range(5)]
    judging = Judging(baseline="m0")
    results = collect(found, judging, tmp_path)
    began = time.process_time()
    page, _ = comparison_page(results, judging, Background("Fifty runs"))
    html = render_page(page)
    assert time.process_time() - began < 3
    size = len(html.encode())
    assert size < 10_000_000 and html.count("plotly.js v") <= 2, f"{size} bytes"
    assert len(results.curves) == 50 * 1001, "the full curves are in the tables"


def test_everything_is_written(tmp_path: Path) -> None:
    found = entries(tmp_path / "runs", {"A": (None, 0.8, None), "P@2": (2.0, 0.6, privacy(2.0))})
    judging = Judging(baseline="A")
    folder = tmp_path / "out"
    folder.mkdir()
    made = write(collect(found, judging, folder), judging, Background("Written"), folder)
    assert made.report.exists() and made.failed == 0
    assert {p.name for p in (folder / "tables").iterdir()} >= {"runs.csv", "cells.parquet", "tests.csv", "curves.csv"}
    kinds = {p.suffix for p in (folder / "figures").iterdir()}
    assert kinds == {".svg", ".png", ".pdf"}
    assert "2.0 to" not in made._repr_html_() and "P, epsilon 2" in made._repr_html_()
    assert made.figure("utility-epsilon").axes[0].get_xlabel().startswith("epsilon\n(unit client")
    assert made.figure("learning")._repr_png_().startswith(b"\x89PNG"), "a notebook shows it without pyplot"
    assert repr(made) == f"Comparison(4 runs, 2 methods and levels; {made.report})"
    assert str(made.runs["level"].dtype) == str(made.cells["epsilon"].dtype) == "float64"
    assert made.runs["directory"][0] == "../runs/0-0"
    text = (folder / "compare.md").read_text()
    assert text.startswith("# Written\n\nAgainst A: P, epsilon 2 (-0.2") and "\n| P, epsilon 2 | 2 | 0.5" in text
    with pytest.raises(KeyError):
        made.figure("nothing")


def test_a_trimmed_report_shows_pictures_and_runs_no_script(tmp_path: Path) -> None:
    found = entries(tmp_path / "runs", {"A": (None, 0.8, None), "P@2": (2.0, 0.6, privacy(2.0))})
    judging = Judging(baseline="A")
    folder = tmp_path / "out"
    folder.mkdir()
    made = write(collect(found, judging, folder), judging, Background("Trimmed"), folder)
    written = trim(folder, tmp_path / "small")
    html = (tmp_path / "small" / "compare.html").read_text()
    assert "<script" not in html and "<fieldset" not in html and len(html) < 60_000
    shown = set(re.findall(r'<img src="figures/([^"]+)"', html))
    assert shown == {path.name for path in (folder / "figures").glob("*.svg")} and len(shown) > len(made.plots)
    assert all((tmp_path / "small" / "figures" / name).exists() for name in shown)
    assert html.count('alt="') == len(shown) and "img-src file: 'self'" in html
    assert "curves.csv" not in {path.name for path in written}
    assert "](figures/learning-virtual-time.svg)" in (tmp_path / "small" / "compare.md").read_text()


def test_one_noise_level_does_not_stretch_the_axis_of_epsilon(tmp_path: Path) -> None:
    same = {"A@16": (16.0, 0.6, privacy(16.0)), "B@16": (16.0, 0.7, privacy(15.0)), "plain": (None, 0.9, None)}
    figures, _ = page_of(entries(tmp_path, same), tmp_path)
    panel = figures["utility-epsilon"]
    assert panel.layout["xaxis"]["range"] == [0, 32.0]
    across = next(trace for trace in panel.traces if trace["name"] == "plain [no privacy]" and "dash" in trace["line"])
    assert across["x"] == [0, 32.0], "runs without privacy are drawn from end to end"
    assert as_matplotlib(panel).axes[0].get_xlim() == (0, 32), "on paper too"
    two = {"A@2": (2.0, 0.6, privacy(2.0)), "A@8": (8.0, 0.7, privacy(8.0))}
    figures, _ = page_of(entries(tmp_path / "two", two), tmp_path / "two")
    assert "range" not in figures["utility-epsilon"].layout["xaxis"]
