"""docs/devices.md names every kind and its example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from fedopt.components import build, names

PAGE = (Path(__file__).parents[2] / "docs" / "devices.md").read_text()
FAMILIES = ("compute", "network", "availability", "work")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_is_on_the_page(family):
    section = PAGE.split(f"\n## {family}\n")[1].split("\n## ")[0]
    assert [kind for kind in names(f"fedopt.devices.{family}") if f"| `{kind}` |" not in section] == []


@pytest.mark.parametrize("loader", ["safe", "rt"])
def test_the_example_is_a_valid_section(loader):
    example = YAML(typ=loader).load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])["devices"]
    for family in FAMILIES:
        problems: list = []
        build(f"fedopt.devices.{family}", example[family], (), problems)
        assert problems == []


def test_numbers_of_a_scenario_file_are_exact(fleet):
    text = "{kind: constant, seconds: [0.1, 1e-3, 2]}"
    model = build("fedopt.devices.compute", YAML(typ="rt").load(text), (), [])
    assert model.denominator(3) == 1000
    assert [str(time) for time in model.bind(fleet(3)).expected([1] * 3, 1)] == ["1/10", "1/1000", "2"]
