"""Scenario files: errors with file, line, value and remedy, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedopt.problems import ConfigurationError
from fedopt.scenario import ScenarioError, from_mapping, load
from fedopt.scenario_file import parse_override
from fedopt.template import commented_scenario
from fedopt.yaml_writer import to_yaml
from scenarios import SMALL, mapping, small

BROKEN = """\
name: broken
data:
  kind: digit
  clients: 50
model: {kind: mlp, hidden: [64]}
client:
  kind: sgd
  lr: -1
  batch_sise: 10
  epochs: 1
aggregator: {kind: fedbuff, buffer_size: 0}
run: {server_steps: ten}
"""


def test_all_problems_at_once_with_line_value_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(BROKEN)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    text = str(caught.value)
    assert f"{path}:3:3: data.kind: unknown kind 'digit'; did you mean digits?" in text
    assert f"{path}:8:3: client.lr: must be > 0, got -1." in text
    assert f"{path}:9:3: client.batch_sise: unknown option of client: sgd; did you mean batch_size?" in text
    assert f"{path}:11:29: aggregator.buffer_size: must be >= 1, got 0." in text
    assert f"{path}:12:7: run.server_steps:" in text and "'ten'" in text
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "a scenario is a mapping"),
        ("", "a scenario is a mapping"),
        ("name: a\nname: b\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_scenario(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=message):
        load(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nothing\.yaml: cannot be read: No such file"):
        load(tmp_path / "nothing.yaml")


def test_scientific_notation_is_a_number_and_no_is_not_false(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(mapping(name="no", client__lr=0.5)).replace("lr: 0.5", "lr: 5e-1"))
    loaded = load(path)
    assert loaded.client.lr == 0.5 and loaded.name == "no"  # type: ignore[attr-defined]


def test_a_resolved_scenario_loads_to_itself(tmp_path: Path) -> None:
    first = small()
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(first.resolved()))
    assert load(path) == first and load(path).content_hash() == first.content_hash()


def test_a_default_that_is_spelled_out_is_nobodys_wish() -> None:
    """The default cohort is larger than this population: a run may start, so its own record must load."""
    body = mapping(data={"kind": "digits", "clients": 3}, sampling={"kind": "fixed"})
    first = from_mapping(body)
    assert first.resolved()["sampling"]["cohort_size"] == 10 and from_mapping(first.resolved()) == first
    with pytest.raises(ConfigurationError, match=r"10 clients are wanted, but data\.clients is 3"):
        from_mapping({**body, "sampling": {"kind": "fixed", "cohort_size": 10}})


def test_the_content_hash_ignores_the_name_and_nothing_else() -> None:
    assert small(name="other").content_hash() == small().content_hash()
    assert small(client__lr=0.3).content_hash() != small().content_hash()
    assert small(seed=4).content_hash() != small().content_hash()


def test_overrides_are_applied_before_validation(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(SMALL))
    assert load(path, {"client.lr": 0.01}).client.lr == 0.01  # type: ignore[attr-defined]
    with pytest.raises(ScenarioError, match=r"--set client\.lr=-2: must be > 0, got -2"):
        load(path, dict([parse_override("client.lr=-2")]))
    with pytest.raises(ScenarioError, match="write it as"):
        parse_override("client.lr")


def test_a_run_without_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the run never ends"):
        from_mapping({**SMALL, "run": {}})


def test_a_users_own_component_by_module_and_class() -> None:
    chosen = small(aggregator={"kind": "fedopt.aggregators.fedavg:FedAvg", "server_lr": 0.5})
    assert type(chosen.aggregator).__name__ == "FedAvg"
    with pytest.raises(ConfigurationError, match=r"cannot import 'no\.such'"):
        from_mapping(mapping(aggregator={"kind": "no.such:Thing"}))
    with pytest.raises(ConfigurationError, match="has no class 'Nothing'"):
        from_mapping(mapping(aggregator={"kind": "fedopt.aggregators.fedavg:Nothing"}))


def test_the_commented_template_is_a_valid_scenario(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(commented_scenario())
    assert load(path).name == "my-first-run"
    assert "clipping_norm" in path.read_text() and "#" in path.read_text()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def test_work_in_epochs_is_counted_in_the_epochs_the_client_plans() -> None:
    """2 epochs taken for 1 would double every task."""
    work = {"kind": "epochs_uniform", "low": 1, "high": 3}
    two = {"kind": "sgd", "epochs": 2}
    with pytest.raises(ConfigurationError, match=r"devices.work.planned_epochs: is 1, but client.epochs is 2,.* set 2"):
        small(devices={"work": work}, client=two)
    with pytest.raises(ConfigurationError, match=r"is 3, but client.epochs is 1"):
        small(devices={"work": {**work, "planned_epochs": 3}}, client={"kind": "sgd"})
    assert small(devices={"work": {**work, "planned_epochs": 2}}, client=two)
    assert small(devices={"work": work}, client={"kind": "sgd", "steps": 4})
    assert small(devices={"work": work}, client={"kind": "sgd"})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_scenarios_give_problems_and_never_another_exception(data: st.DataObject) -> None:
    body = mapping()
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from([*body, "privacy", "unknown"]))
        if isinstance(body.get(section), dict) and data.draw(st.booleans()):
            key = data.draw(st.sampled_from([*body[section], "kind", "x"]))
            body[section] = {**body[section], key: data.draw(VALUES)}
        else:
            body[section] = data.draw(VALUES)
    try:
        from_mapping(body)
    except ConfigurationError as error:
        assert error.problems and all(p.message for p in error.problems)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_fuzzed_files_give_problems_and_never_another_exception(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        load(path)
    except ScenarioError as error:
        assert error.problems


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampling__over_selection", float("inf")),
        ("sampling__deadline_s", float("inf")),
        ("run__time_s", float("inf")),
        ("run__target_metric", float("nan")),
        ("engine__memory_gib", float("inf")),
        ("aggregator", {"kind": "fedfix", "server_step_s": float("inf")}),
    ],
)
def test_limits_and_times_are_finite(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"(sampling|run|engine|aggregator)\.\w+: must be a finite number"):
        small(**{key: value})
