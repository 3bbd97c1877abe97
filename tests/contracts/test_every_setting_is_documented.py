"""Every option of every component and section has a description; every component has a summary and references."""

from __future__ import annotations

import pytest

from fedopt.commands.scenarios import FAMILIES
from fedopt.components import components, summary
from fedopt.scenario import Devices, EngineSettings, Privacy, Run, Scenario

ALL = [(family, kind, found) for family in FAMILIES.values() for kind, found in components(family).items()]


@pytest.mark.parametrize(("family", "kind", "settings"), ALL, ids=[f"{f}.{k}" for f, k, _ in ALL])
def test_components_are_documented(family: str, kind: str, settings: type) -> None:
    assert settings.kind() == kind  # type: ignore[attr-defined]
    assert len(summary(settings)) > 10, f"{kind} has no one-line summary"
    for name, field in settings.model_fields.items():  # type: ignore[attr-defined]
        assert field.description, f"{kind}.{name} has no description"


@pytest.mark.parametrize("section", [Scenario, Devices, Privacy, Run, EngineSettings])
def test_sections_are_documented(section: type) -> None:
    for name, field in section.model_fields.items():  # type: ignore[attr-defined]
        assert field.description, f"{section.__name__}.{name} has no description"
