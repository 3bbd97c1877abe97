"""The Python API takes a file, a mapping or a scenario, and says what is wrong in the same words."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import fedopt
from fedopt.scenario import ScenarioError, from_values
from fedopt.yaml_writer import to_yaml
from scenarios import mapping, small


def test_a_mapping_and_a_scenario_are_run_as_their_file(tmp_path: Path) -> None:
    body, changes = mapping(), {"run.server_steps": 2, "client.lr": 0.1}
    file = tmp_path / "s.yaml"
    file.write_text(to_yaml(body))
    before = copy.deepcopy(body)
    runs = [fedopt.simulate(each, tmp_path / "out", overrides=changes) for each in (file, body, small())]
    assert body == before
    assert [run.summary["steps"] for run in runs] == [2, 2, 2]
    assert len({run.summary["model_sha256"] for run in runs}) == 1
    assert [run.scenario.client.lr for run in runs] == [0.1] * 3  # type: ignore[attr-defined]


def test_problems_of_a_mapping_are_told_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        fedopt.simulate(mapping(client__lr=-1.0), tmp_path, overrides={"x.y": 1})
    assert caught.value.problems == [
        "client.lr: must be > 0, got -1.0.",
        "x: unknown option of a scenario; known: name, seed, data, model, client, devices, sampling, aggregator, "
        "privacy, audit, run, engine.",
    ]
    assert not list(tmp_path.iterdir())
    assert from_values(mapping(), {"seed": 5}).seed == 5
