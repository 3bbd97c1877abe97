"""Options in words: types, ranges, defaults and sections, as `fedopt list FAMILY KIND` shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from typer.testing import CliRunner

from fedopt.cli import app
from fedopt.components import KindOf, Section, Settings
from fedopt.option_words import Option, described, markdown, options_of


class Inner(Section):
    """A section."""

    depth: int = Field(3, ge=1, le=9, description="how deep")
    note: str | None = Field(None, description="a remark")


class Sample(Settings):
    """One line.

    More lines.
    """

    rate: float = Field(gt=0, lt=0.5, description="how fast")
    size: int | Literal["full"] = Field("full", description="how many")
    inner: Inner = Field(Inner(depth=5), description="what is inside")
    maybe: Inner | None = Field(None, description="what may be inside")
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0, 2.0), min_length=1, description="several")
    pair: tuple[int, str] = Field((1, "a|b"), description="two things")
    table: dict[str, Any] = Field(default_factory=dict, description="by name")
    staleness: Annotated[Settings, KindOf("fedopt.aggregators.staleness")] = Field(
        {"kind": "constant"}, description="a component"
    )


WANTED = [
    Option("rate", "number, > 0 and < 0.5", "required", "how fast"),
    Option("size", "whole number or full", "full", "how many"),
    Option("inner", "section", "", "what is inside"),
    Option("inner.depth", "whole number, >= 1 and <= 9", "5", "how deep"),
    Option("inner.note", "text or null", "null", "a remark"),
    Option("maybe", "section or null", "null", "what may be inside"),
    Option("maybe.depth", "whole number, >= 1 and <= 9", "3", "how deep"),
    Option("maybe.note", "text or null", "null", "a remark"),
    Option("scales", "list of number, > 0, length >= 1", "[1.0, 2.0]", "several"),
    Option("pair", "list of whole number, text", "[1, a|b]", "two things"),
    Option("table", "mapping", "{}", "by name"),
    Option("staleness", "kind: constant, hinge, polynomial, threshold", "constant", "a component"),
]


def test_options_say_type_range_default_and_meaning() -> None:
    assert options_of(Sample) == WANTED


def test_a_component_in_full_has_its_description_and_fits_the_width() -> None:
    text = described(Sample, width=30)
    assert text.startswith("One line.\n\nMore lines.\n\nOptions of kind: ")
    assert "\n  rate: number, > 0 and < 0.5;\n      required\n      how fast\n" in text
    assert max(map(len, text.splitlines()[5:])) <= 30

    class Bare(Settings):
        """Nothing to choose."""

    assert described(Bare).startswith("Nothing to choose.\n\nkind: ") and described(Bare).endswith(" has no options\n")


def test_a_table_of_the_documentation_is_markdown() -> None:
    lines = markdown(Sample).splitlines()
    assert lines[2] == "One line." and lines[4] == "| option | values | default | meaning |"
    assert "| `pair` | list of whole number, text | `[1, a\\|b]` | two things |" in lines
    assert "| `rate` | number, > 0 and < 0.5 | required | how fast |" in lines


@pytest.mark.parametrize(
    "words, code, shown",
    [
        (["clients", "fzoos"], 0, "  optimizer.learning_rate: number, > 0; default 0.01\n"),
        (["aggregators", "fedbuff"], 0, "Options of kind: fedbuff\n"),
        (["samplers", "poisson"], 0, "Options of kind: poisson\n"),
        (["clients", "fzos"], 2, "list clients: unknown kind 'fzos'; did you mean fzoos? known: dp_sgd, "),
        (["clients", "nobody:Mine"], 2, "list clients: cannot import 'nobody' for kind 'nobody:Mine': "),
        (["client"], 2, "list: unknown family 'client'; did you mean clients? known: aggregators, "),
    ],
)
def test_list_of_one_kind(words: list[str], code: int, shown: str) -> None:
    result = CliRunner().invoke(app, ["list", *words])
    assert result.exit_code == code and shown in (result.stdout if code == 0 else result.stderr)
