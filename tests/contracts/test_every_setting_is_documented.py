"""Every option of every component and section has a description; every component has a summary and references."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedopt.commands.scenarios import FAMILIES
from fedopt.components import components, summary
from fedopt.option_words import described, markdown, options_of
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


@pytest.mark.parametrize(("family", "kind", "settings"), ALL, ids=[f"{f}.{k}" for f, k, _ in ALL])
def test_every_option_can_be_read(family: str, kind: str, settings: type) -> None:
    shown, options = described(settings), options_of(settings)
    assert shown.startswith(summary(settings))
    assert [each.name for each in options if "." not in each.name] == list(settings.model_fields)  # type: ignore[attr-defined]
    for option in options:
        assert f"\n  {option.name}: {option.values.split()[0]}" in shown and option.meaning
        assert "anything" not in option.values, f"{kind}.{option.name} is of a type that has no words"


CLIENTS = Path(__file__).resolve().parents[2] / "docs" / "algorithms" / "zeroth_order_clients.md"


def test_the_page_of_the_zeroth_order_clients_is_made_from_their_fields() -> None:
    """To renew it: replace everything after the marker by what is compared here."""
    clients = components("fedopt.clients")
    kinds = ("fzoos", "finite_difference", "spsa", "dp_spsa", "fedkseed")
    _, _, made = CLIENTS.read_text(encoding="utf-8").partition("a test compares. -->\n\n")
    assert made == "\n".join(markdown(clients[kind]) for kind in kinds)
