"""The parts of a run's report, one file each: ``section(run) -> Section``."""

from __future__ import annotations

from fedopt.report.page import Page
from fedopt.report.run_data import RunData
from fedopt.report.sections import background, clients, headline, learning, prediction, privacy, schedule


def run_page(run: RunData) -> Page:
    """The whole report of one run."""
    return Page(
        title=str(run.summary.get("name") or run.directory.name),
        subtitle=headline.subtitle(run),
        banner=headline.banner(run),
        cards=headline.cards(run),
        sections=[
            learning.section(run),
            privacy.section(run),
            schedule.section(run),
            prediction.section(run),
            clients.split_section(run),
            clients.spread_section(run),
            background.scenario_section(run),
            background.warnings_section(run),
            background.references_section(run),
            background.environment_section(run),
        ],
    )
