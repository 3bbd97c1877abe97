"""The command line as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from fedopt.cli import app
from fedopt.commands.scenarios import FAMILIES
from fedopt.components import components
from fedopt.yaml_writer import to_yaml
from scenarios import mapping

PRIVACY = (
    "{unit: client, mechanism: {kind: gaussian, clipping_norm: 1.0, noise_multiplier: 1.0}, max_participations: 3, "
    "delta: %s}"
)


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(mapping()))
    return path


def test_simulate_ends_with_the_metric_and_where_the_report_lies(scenario: Path, tmp_path: Path) -> None:
    code, out, _ = call("simulate", str(scenario), "--out", str(tmp_path / "out"), "--quiet", "--seed", "7")
    assert code == 0
    lines = out.strip().splitlines()
    assert lines[0] == "finished: 6 server steps were made" and lines[1].startswith("final accuracy: 0.")
    report = Path(lines[-1].removeprefix("report: "))
    assert report.exists() and report.parent.parent == tmp_path / "out" / "small"
    assert json.loads((report.parent / "summary.json").read_text())["seed"] == 7
    code, out, _ = call("report", str(report.parent))
    assert code == 0 and "report: " in out


def test_bad_scenarios_exit_with_2_and_write_nothing(scenario: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, errors = call("simulate", str(scenario), "--out", str(out), "--set", "client.lr=-1", "--set", "x.y=1")
    assert code == 2 and not out.exists()
    assert (
        "--set client.lr=-1: must be > 0, got -1." in errors and "--set x.y=1: unknown option of a scenario" in errors
    )


def test_data_that_do_not_fit_exit_with_2(scenario: Path, tmp_path: Path) -> None:
    code, _, errors = call(
        "simulate", str(scenario), "--out", str(tmp_path / "out"), "--set", "data.clients=100000", "--quiet"
    )
    assert code == 2 and "100000" in errors


def test_validate_prints_the_resolved_scenario(scenario: Path) -> None:
    code, out, _ = call("validate", str(scenario), "--device", "cpu")
    assert code == 0 and "server_lr: 1.0" in out and "schema_version: 1" in out


def test_a_private_scenario_without_amplification_is_warned_of_by_validate_and_simulate(tmp_path: Path) -> None:
    path, warning = tmp_path / "s.yaml", "warning: sampling fixed is accounted without amplification"
    privacy = {"mechanism": {"kind": "gaussian", "clipping_norm": 1.0}, "target_epsilon": 8.0}
    path.write_text(to_yaml(mapping(privacy=privacy)))
    code, out, errors = call("validate", str(path))
    assert code == 0 and f"{path}: {warning}" in errors and "warning" not in out
    code, out, errors = call("simulate", str(path), "--out", str(tmp_path))
    assert code == 0 and errors.startswith(warning)
    report = Path(out.strip().splitlines()[-1].removeprefix("report: "))
    assert "sampling fixed is accounted without amplification" in report.read_text(encoding="utf-8")
    path.write_text(to_yaml(mapping()))
    assert "warning" not in call("validate", str(path))[2]


def test_validate_finds_cohorts_that_are_larger_than_the_population(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(to_yaml(mapping(sampling__cohort_size=13)))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "cohort_size" in text)
    code, _, errors = call("validate", str(path))
    assert (
        code == 2 and errors.startswith(f"{path}:{line}:") and "13 clients are wanted, but data.clients is 12" in errors
    )
    path.write_text(to_yaml(mapping(sampling__cohort_size=12)))
    assert call("validate", str(path))[0] == 0


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_validate_reads_the_header_of_a_table(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame({"age": [1, 2], "label": [0, 1], "who": ["a", "b"]})
    table, path = tmp_path / f"mine.{ending}", tmp_path / "s.yaml"
    frame.to_parquet(table) if ending == "parquet" else frame.to_csv(table, sep="\t" if ending == "tsv" else ",")
    good = {"kind": "table", "path": str(table), "target_column": "label", "client_column": "who", "clients": 12}
    path.write_text(to_yaml(mapping(data=good)))
    assert call("validate", str(path))[0] == 0
    path.write_text(to_yaml(mapping(data={**good, "target_column": "lable", "client_column": "whom"})))
    code, _, errors = call("validate", str(path))
    text = path.read_text().splitlines()
    for key, wrong in (("target_column", "lable"), ("client_column", "whom")):
        line = next(i for i, found in enumerate(text, 1) if key in found)
        assert f"{path}:{line}:" in errors and f"data.{key}: {table} has no column {wrong}; it has" in errors
    assert code == 2 and len(errors.splitlines()) == 2
    path.write_text(to_yaml(mapping(data={**good, "path": "nowhere.csv"})))
    code, _, errors = call("validate", str(path))
    assert code == 2 and "data.path: table: not found in nowhere.csv" in errors


@pytest.mark.parametrize(
    "setting, told",
    [
        (
            "client.kind=scaffold",
            "scaffold needs control from the server, which aggregator fedavg does not send; use client: {kind: dp_sgd} "
            "or {kind: finite_difference} or {kind: fzoos} or {kind: proximal} or {kind: sgd}, or an aggregator that "
            "does: buffered_scaffold, scaffold.",
        ),
        ("data={kind: idx, path: nowhere}", "idx: not found in nowhere"),
        (f"privacy={PRIVACY % '1.0e-14'}", "delta: must be >= 1e-12, got 1e-14"),
        (
            "data={kind: user_function, function: 'no_module:f', dimension: 3} && model=point",
            "function: 'no_module:f' cannot be found: No module named 'no_module'; start fedopt in the folder of",
        ),
        (
            "model={kind: user_module, factory: 'json:no_model'}",
            "factory: cannot import model.factory json:no_model: module 'json' has no attribute 'no_model'.",
        ),
    ],
)
def test_validate_refuses_what_a_run_would(scenario: Path, setting: str, told: str) -> None:
    scenario.write_text(to_yaml(mapping(aggregator={"kind": "fedavg"})))
    code, _, errors = call("validate", str(scenario), *(f"--set={each}" for each in setting.split(" && ")))
    assert code == 2 and told in errors


@pytest.mark.parametrize("family", FAMILIES)
def test_list_has_one_line_each_with_the_name_first(family: str) -> None:
    code, out, _ = call("list", family)
    lines = out.strip().splitlines()
    found = components(FAMILIES[family])
    assert code == 0 and [line.split()[0] for line in lines] == sorted(found)
    assert all(len(line.split()) > 1 for line in lines), "every component has a one-line summary"


def test_list_of_an_unknown_family_exits_with_2() -> None:
    code, _, errors = call("list", "nothing")
    assert code == 2 and "known: aggregators" in errors


def test_schema_describes_every_key() -> None:
    code, out, _ = call("schema")
    schema = json.loads(out)
    assert code == 0 and set(schema["properties"]) >= {"data", "model", "client", "aggregator", "run"}
    kinds = [option["properties"]["kind"]["const"] for option in schema["properties"]["aggregator"]["anyOf"]]
    assert "fedavg" in kinds and "fedbuff" in kinds


def test_init_writes_a_scenario_that_runs_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert call("init", str(path))[0] == 0
    assert call("validate", str(path))[0] == 0
    code, _, errors = call("init", str(path))
    assert code == 2 and "exists already" in errors


def test_report_of_a_folder_without_a_run_exits_with_2(tmp_path: Path) -> None:
    code, _, errors = call("report", str(tmp_path))
    assert code == 2 and "is not a run directory" in errors


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert call("--version") == (0, f"fedopt {version('fedopt')}\n", "")
