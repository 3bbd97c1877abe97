"""A comparison as a page of Markdown: for pull requests, papers' appendices and repositories."""

from __future__ import annotations

from collections.abc import Sequence

from fedopt.comparison.ground import why_apart
from fedopt.comparison.page import Background
from fedopt.comparison.paper import stems
from fedopt.comparison.results import Judging, Results, cell_of
from fedopt.comparison.words import (
    accounted_again,
    costs_in_words,
    records,
    seeds_of,
    shown_interval,
    trouble,
    verdicts,
)
from fedopt.report import text
from fedopt.report.figures import Figure


def as_markdown(results: Results, judging: Judging, background: Background, plots: Sequence[Figure] = ()) -> str:
    """Verdicts, plots, the table of methods, what was kept apart, and how it was made.

    Args:
        plots: shown as pictures from ``figures/``.
    """
    claims = list(results.claims.values())
    notes = [*why_apart([c.ground for c in claims], [c.trust for c in claims]), *accounted_again(results)]
    parts = [f"# {background.title}", background.question, trouble(results), *verdicts(results, judging.confidence)]
    parts += [f"![{plot.alt}](figures/{stems(plot)[0]}.svg)" for plot in plots]
    parts += [_methods(results, judging.confidence), *_listed(notes), *_listed(background.tuning)]
    parts.append(f"Made by `{background.command}`; code that computed: `{background.code or 'as in the runs'}`.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _listed(sentences: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {sentence}" for sentence in sentences)] if sentences else []


def _methods(results: Results, confidence: float) -> str:
    cost_names, costs = costs_in_words(results)
    names = ("method", "seeds", "mean", f"{confidence:.0%} interval", "epsilon", "trust", *cost_names)
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    for row, cost in zip(records(results.cells), costs, strict=True):
        interval = shown_interval(row)
        cells = [cell_of(row).label, seeds_of(row), row["mean"], interval, row["epsilon"], row["trust"]]
        shown = [*(text.cell(value) for value in cells), *cost]
        lines.append(" | ".join(value.replace("|", "\\|") for value in shown))
    return "\n".join(f"| {line} |" for line in lines)
