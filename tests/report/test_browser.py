"""The report in a real Chromium: plots are drawn, nothing overflows, nothing is requested, nothing complains."""

import pytest

from fedopt.report import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tab(browser):
    if browser.chromium() is None:
        pytest.skip("no Chromium on this machine: install the package chromium to check reports in a browser")
    with browser.Browser() as opened:
        yield opened


def test_report_in_a_browser(finished_run, tab):
    report = write_report(finished_run)
    for width, dark in ((400, True), (1400, False)):
        tab.open(report, width, dark)
        plots = tab.evaluate("document.querySelectorAll('[data-plot]').length")
        assert plots == 15
        assert tab.evaluate("document.querySelectorAll('[data-plot] .plot svg.main-svg').length") >= plots
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        wider = "[...document.querySelectorAll('.plot svg')].filter(s => s.getBoundingClientRect().right > innerWidth)"
        assert tab.evaluate(f"{wider}.length") == 0
        text = tab.evaluate("getComputedStyle(document.querySelector('#plot-metric .xtitle')).fill")
        assert text == ("rgb(232, 236, 240)" if dark else "rgb(27, 31, 36)")
    # Choosing another axis redraws the plot.
    title = "document.querySelector('#plot-metric .xtitle').textContent"
    assert tab.evaluate(title) == "server step"
    tab.evaluate("document.querySelectorAll('[name=view-metric]')[2].click()")
    tab.wait(f"{title} === 'bytes sent, both ways'")
    assert tab.problems == []
