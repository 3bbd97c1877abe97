"""The comparison page in a real Chromium: offline, at two widths, dark and light, printable, without complaints."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
from comparison.fabricated import curve, fabricate, privacy

from fedopt.comparison.expansion import Cell
from fedopt.comparison.page import Background, comparison_page
from fedopt.comparison.results import Entry, Judging, collect
from fedopt.report.page import render_page

pytestmark = pytest.mark.slow
DRAWN = "document.querySelectorAll('[data-plot] .plot svg.main-svg').length"


@pytest.fixture(scope="module")
def tab() -> Any:
    path = Path(__file__).resolve().parents[1] / "report" / "browser.py"
    spec = importlib.util.spec_from_file_location("report_browser", path)
    assert spec is not None and spec.loader is not None
    browser = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(browser)
    if browser.chromium() is None:
        pytest.skip("no Chromium on this machine: install the package chromium to check reports in a browser")
    with browser.Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty runs of a thousand steps: five methods at two noise levels with five seeds."""
    folder = tmp_path_factory.mktemp("fifty")
    ten = [
        fabricate(folder / f"{i}", curve(1000, 0.5 + 0.03 * i, i), i, privacy(2.0 + i), clients=(0.4, 0.8))
        for i in range(10)
    ]
    entries = [
        Entry(Cell("", f"method {i % 5}", float(1 + i // 5), "epsilon"), seed, ten[(i + seed) % 10])
        for i in range(10)
        for seed in range(5)
    ]
    judging = Judging(baseline="method 0", target=0.3)
    made, _ = comparison_page(collect(entries, judging, folder), judging, Background("Fifty runs"))
    path = folder / "compare.html"
    path.write_text(render_page(made))
    return path


def test_the_page_at_two_widths_dark_and_light(page: Path, tab: Any) -> None:
    for width, dark in ((400, True), (1400, False)):
        tab.open(page, width, dark)
        plots = tab.evaluate("document.querySelectorAll('[data-plot]').length")
        assert plots == 5 and tab.evaluate(DRAWN) >= plots
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        wider = "[...document.querySelectorAll('.plot svg')].filter(s => s.getBoundingClientRect().right > innerWidth)"
        assert tab.evaluate(f"{wider}.length") == 0
        text = tab.evaluate("getComputedStyle(document.querySelector('#plot-learning .xtitle')).fill")
        assert text == ("rgb(232, 236, 240)" if dark else "rgb(27, 31, 36)")
        fill = tab.evaluate("document.querySelector('#plot-learning .js-fill').style.fill")
        assert fill.startswith("rgb"), "bands have the colour of their line"
        opacity = float(tab.evaluate("document.querySelector('#plot-learning .js-fill').style.fillOpacity"))
        assert 0.1 < opacity < 0.3
    assert tab.problems == []


def test_legends_and_axes_can_be_chosen(page: Path, tab: Any) -> None:
    tab.open(page, 1400)
    shown = "document.querySelectorAll('#plot-learning .scatterlayer .trace').length"
    before = tab.evaluate(shown)
    mouse = "new MouseEvent('%s', {bubbles: true})"
    press = "const t = document.querySelector('#plot-learning .legendtoggle'); "
    press += "".join(f"t.dispatchEvent({mouse % kind}); " for kind in ("mousedown", "mouseup"))
    tab.evaluate(f"(() => {{ {press} }})()")
    tab.wait(f"{shown} === {before + 3}")  # the first method's other noise level: a line and both edges of its band
    title = "document.querySelector('#plot-learning .xtitle').textContent"
    tab.evaluate("document.querySelectorAll('[name=view-learning]')[2].click()")
    tab.wait(f"{title} === 'bytes sent, both ways'")
    assert tab.problems == []


def test_a_table_is_shaded_where_columns_are_hidden(page: Path, tab: Any, tmp_path: Path) -> None:
    from matplotlib.image import imread

    table = "document.querySelector('#methods .table-scroll')"

    def shaded() -> list[bool]:
        """Whether the left and the right edge of the table are darker than the card: a band two pixels wide."""
        tab.screenshot(tmp_path / "shot.png")
        box = tab.evaluate(
            f"(() => {{ const b = {table}.getBoundingClientRect(); return [b.x, b.right, b.y + scrollY, b.height] }})()"
        )
        left, right, top, height = (round(value) for value in box)
        rows = imread(tmp_path / "shot.png")[top + height // 2 : top + height - 4, :, :3].mean(axis=(0, 2))
        card = imread(tmp_path / "shot.png")[top + height // 2, left - 3, :3].mean()
        return [bool(rows[x : x + 2].mean() < card - 0.1) for x in (left + 1, right - 3)]

    tab.open(page, 390)
    assert shaded() == [False, True]
    tab.evaluate(f"{table}.scrollLeft = 1e5")
    assert shaded() == [True, False]
    tab.open(page, 1400)
    assert shaded() == [False, False]


def test_keyboard_and_screen_reader_basics(page: Path, tab: Any) -> None:
    tab.open(page, 1400)
    unnamed = "[...document.querySelectorAll('[data-plot] .plot')].filter(p => !p.getAttribute('aria-label'))"
    assert tab.evaluate(f"{unnamed}.length") == 0
    tables = tab.evaluate("document.querySelectorAll('[data-plot] details table caption').length")
    assert tables == tab.evaluate("document.querySelectorAll('[data-plot]').length"), "every plot has its numbers"
    assert tab.evaluate("document.documentElement.lang") == "en"
    tab.evaluate("document.querySelector('.skip').focus()")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1


def test_it_draws_fast_and_prints(page: Path, tab: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    tab.open(page, 1400)
    elapsed = time.monotonic() - began
    busy = tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") / 1000
    assert elapsed < 30, f"{elapsed:.1f} s to the last plot, {busy:.1f} s to the content"
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000 and tab.problems == []


def test_paper_is_light_and_holds_whole_plots(page: Path, tab: Any, tmp_path: Path) -> None:
    tab.open(page, 1400, dark=True)
    tab.evaluate(
        "addEventListener('beforeprint', () => { window.printed = ["
        "document.querySelector('.plot .main-svg').getBoundingClientRect().width,"
        "getComputedStyle(document.documentElement).getPropertyValue('--text').trim()]; })"
    )
    tab.pdf(tmp_path / "page.pdf")
    width, text = tab.evaluate("window.printed")
    assert 600 < width < 660 and text == "#1b1f24"  # 17 cm, and the light theme's ink
    tab.wait(
        "document.documentElement.dataset.print === undefined && document.documentElement.dataset.plots !== undefined"
    )
    assert tab.evaluate("document.querySelector('.plot').clientWidth") > 1000
