"""Checks between privacy and the rest of a scenario, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedopt.components import Problem

if TYPE_CHECKING:
    from fedopt.scenario import Scenario


def problems_of(scenario: Scenario) -> list[Problem]:
    """Every problem of the combination, with what to do instead; empty without privacy."""
    return []
