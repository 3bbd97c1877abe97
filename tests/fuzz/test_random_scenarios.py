"""Scenarios at random: refused with a remedy, or run to an end that keeps every law."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzz.drawing import draw
from fuzz.runs import FULL, faults

from fedopt.privacy.releases import AccountingError
from fedopt.problems import ConfigurationError
from fedopt.scenario import Scenario, from_mapping

EVERYDAY, MANY, BROKEN = range(12), range(1000, 1300), range(2000, 2040)
REMEDY = (
    "use ", "set ", "give ", "lower ", "raise ", "leave ", "must ", "at most ", "need", "make ", "scale ", "declare ",
    "belong to", "known: ",
)  # fmt: skip


def accepted(body: dict[str, Any]) -> Scenario | None:
    """The scenario, or None if it is refused in proper words: where, and what to do."""
    try:
        return from_mapping(body)
    except ConfigurationError as refusal:
        for problem in refusal.problems:
            assert problem.path and any(word in problem.message for word in REMEDY), problem
        return None


def judge(seed: int, directory: Path, outside: float = 0.0) -> None:
    """Draw, run in three ways, and hold the runs against every law."""
    body = draw(seed, outside)
    scenario = accepted(body)
    if scenario is None:
        return
    try:
        found = faults(scenario, directory, seed)
    except ValueError as refusal:
        assert type(refusal) in (ValueError, AccountingError) and any(word in str(refusal) for word in REMEDY), (
            json.dumps(body)
        )
        assert not (directory / "whole" / "scenario.yaml").exists() or FULL in str(refusal), json.dumps(body)
        return
    assert not found, json.dumps(body)


@pytest.mark.parametrize("seed", EVERYDAY)
def test_scenarios_at_random(seed: int, tmp_path: Path) -> None:
    judge(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_many_scenarios_at_random(seed: int, tmp_path: Path) -> None:
    judge(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tens", BROKEN)
def test_scenarios_with_values_that_are_not_allowed(tens: int, tmp_path: Path) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        judge(seed, tmp_path / str(seed), outside=0.05)


def test_a_good_share_is_accepted_and_every_component_is_drawn() -> None:
    """Else the tests above would hold of nothing."""
    drawn = [draw(seed) for seed in range(400)]
    kinds = {part: {body[part]["kind"] for body in drawn} for part in ("aggregator", "client", "sampling")}
    assert len(kinds["aggregator"]) > 25 and len(kinds["client"]) >= 9 and len(kinds["sampling"]) == 5
    assert sum(accepted(body) is not None for body in drawn[:100]) > 40
