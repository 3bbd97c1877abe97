"""The shell of a report: one HTML file with style, script, plots and tables inside, and no request to anywhere.

A content security policy forbids the page to load anything, so "works offline" is enforced by the browser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fedopt.report.figures import Figure
from fedopt.report.text import escape, table

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class Card:
    """One headline number: what it is, the number, and a remark."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        name: anchor.
        title: heading.
        blocks: figures and ready HTML, in order. Only ready HTML that was escaped.
    """

    name: str
    title: str
    blocks: Sequence[Figure | str]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Args:
        title: heading and window title.
        subtitle: one line under it.
        banner: warning above everything, or empty.
        cards: headline numbers.
        sections: the parts; empty ones are left out.
    """

    title: str
    subtitle: str
    banner: str
    cards: Sequence[Card]
    sections: Sequence[Section]


def render_page(page: Page) -> str:
    """The complete HTML document."""
    sections = [section for section in page.sections if section.blocks]
    links = "".join(f'<li><a href="#{s.name}">{escape(s.title)}</a></li>' for s in sections)
    banner = f'<div class="banner" role="alert">{escape(page.banner)}</div>' if page.banner else ""
    has_plots = any(isinstance(block, Figure) for section in sections for block in section.blocks)
    script = f"<script>{plotly_script()}</script><script>{_asset('report.js')}</script>" if has_plots else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(page.title)}</title>
<style>{_asset("report.css")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header><h1>{escape(page.title)}</h1><p class="subtitle">{escape(page.subtitle)}</p></header>
{banner}
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="content" tabindex="-1">
{_cards(page.cards)}
<noscript><p class="note">The plots need JavaScript; every plot has its numbers in a table below it.</p></noscript>
{"".join(map(_section, sections))}
</main>
<footer><p>Made by fedopt from the run directory alone. Plots: Plotly.js (MIT licence), included here.</p></footer>
{script}
</body>
</html>
"""


def _cards(cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    items = []
    for card in cards:
        remark = f'<dd class="remark">{escape(card.remark)}</dd>' if card.remark else ""
        items.append(f"<div class='card'><dt>{escape(card.label)}</dt><dd>{escape(card.value)}</dd>{remark}</div>")
    return f'<section aria-label="Headline numbers"><dl class="cards">{"".join(items)}</dl></section>'


def _section(section: Section) -> str:
    blocks = "".join(
        _figure(block) if isinstance(block, Figure) else f'<div class="text">{block}</div>' for block in section.blocks
    )
    name = escape(section.name)
    heading = f'<h2 id="{name}-heading">{escape(section.title)}</h2>'
    return (
        f'<section id="{name}" aria-labelledby="{name}-heading">{heading}<div class="blocks">{blocks}</div></section>'
    )


def _figure(figure: Figure) -> str:
    """Heading, choice of axis, placeholder of the plot, its data, and its table."""
    name, wide = escape(figure.name), " wide" if figure.wide else ""
    caption = f"<p>{escape(figure.caption)}</p>" if figure.caption else ""
    # "<" never appears in the data, so nothing in it can end the script element.
    data = json.dumps(figure.spec(), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<figure class="plot-card{wide}" data-plot="{name}">'
        f"<figcaption><h3>{escape(figure.title)}</h3>{caption}</figcaption>{_views(figure)}"
        f'<div class="plot" id="plot-{name}" role="img" aria-label="{escape(figure.alt)}" '
        f'style="height:{figure.height}px"></div>'
        f'<script type="application/json">{data}</script>{_details(figure)}</figure>'
    )


def _views(figure: Figure) -> str:
    if len(figure.views) < 2:
        return ""
    choices = []
    for i, view in enumerate(figure.views):
        checked = " checked" if i == 0 else ""
        choices.append(
            f'<label><input type="radio" name="view-{escape(figure.name)}" value="{i}"{checked}>'
            f"<span>{escape(view.label)}</span></label>"
        )
    return f'<fieldset class="views"><legend>Against</legend>{"".join(choices)}</fieldset>'


def _details(figure: Figure) -> str:
    if not figure.rows:
        return ""
    shown = table(figure.columns, figure.rows, figure.title)
    return f"<details><summary>Table: {escape(figure.title)}</summary>{shown}</details>"


def _asset(name: str) -> str:
    return resources.files("fedopt.report").joinpath("assets", name).read_text("utf-8")


@cache
def plotly_script() -> str:
    """Plotly's script as shipped with its Python package."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
